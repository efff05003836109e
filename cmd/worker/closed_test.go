package main

import (
	"strings"
	"testing"
)

// TestLongSource: a source as long as the request stream takes is answered like any
// other, with a subject that fits, and every replica stays connected.
func TestLongSource(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.read()
	first, second := r.config(), r.config()
	r.start(first)
	r.start(second)
	source := strings.Repeat("x", 4000)
	for _, body := range []string{string(request("far")), "not JSON", string(request("far"))} {
		if _, err := r.js.Publish(t.Context(), "interactions.requests."+source, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	r.send("near", 0, 10)
	at := source[:991] + ".91c9568c40c8d8d1f7a1bd029d124994"
	eventually(t, func() error {
		got := in.subjects()
		if err := is("created", got["interactions.results.created."+at], 2); err != nil {
			return err
		}
		return is("malformed", got["interactions.results.malformed."+at], 1)
	})
	eventually(t, func() error { return is("near", in.subjects()["interactions.results.created.crm"], 10) })
	r.says(first.AdminAddr, "ok", 200)
	r.says(second.AdminAddr, "ok", 200)
}
