package main

import "testing"

// TestReason: what came to persons for one reason is counted as one.
func TestReason(t *testing.T) {
	t.Parallel()
	const lead = "a person has to decide whether it exists: "
	for message, want := range map[string]string{
		lead + "not listed, but TaskRouter's event log could not be read for all of the attempt's time":                       "not listed, but TaskRouter's event log could not be read for all of the attempt's time",
		lead + `TaskRouter could not be asked: Get "http://127.0.0.1:4711/v1/Workspaces": EOF`:                                "TaskRouter could not be asked",
		lead + `TaskRouter could not be asked: HTTP 503: none`:                                                                "TaskRouter could not be asked",
		lead + "task WT00000000000000000000000000000001 names interaction KD00000000000000000000000000000002, but nothing":    "task  names interaction , but nothing",
		"Flex refused the latest attempt, but an earlier one may have created it; " + lead + "neither TaskRouter's tasks nor": "neither TaskRouter's tasks nor",
		lead + "a reason; wait for the final result, and do not send the same under another request_id":                       "a reason",
		"something else": "something else",
	} {
		r := result{}
		r.Error.Message = message
		if got := r.reason(); got != want {
			t.Errorf("%q is %q, want %q", message, got, want)
		}
		r.Error.HTTPStatus = 200
		if got := r.reason(); got != "after a 2xx: "+want {
			t.Errorf("%q after a 2xx is %q", message, got)
		}
	}
}
