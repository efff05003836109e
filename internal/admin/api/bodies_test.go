package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestBodiesAsDocumented: what the document's schemas refuse the API refuses as invalid, and nothing else.
func TestBodiesAsDocumented(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	filter := object{"request_ids": []string{"r"}, "state": "pending", "source": "crm", "error_kind": "x", "http_status": 400, "twilio_code": 1, "for_person": true, "older_than": "90m",
		"received_after": "2026-01-01T00:00:00Z", "received_before": "2026-01-01T00:00:00Z", "settled_within": "1h", "limit": 1}
	for path, good := range bodies {
		good := maps.Clone(good)
		if strings.HasSuffix(path, "/retry") {
			good["unverified"] = false
		}
		if _, many := good["filter"]; many {
			good["filter"] = filter
		}
		if path == "/acts" {
			good["token"] = "x"
		}
		try := func(what string, body any) {
			t.Helper()
			text, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			_, place := g.spec.at("paths", path, "post", "requestBody", "content", "application/json", "schema")
			refused := g.spec.valid(place, text) != nil
			got := g.post(t, strings.ReplaceAll(path, "{id}", "nobody"), string(text), "If-Match", `"1-0-pending-0-0"`)
			invalid := got.kind() == "invalid"
			if refused != invalid {
				t.Errorf("%s, %s: %s: the document refuses it: %v; the API: %s", path, what, text, refused, got.text)
			}
		}
		try("", good)
		try("", []any{})
		try("unknown", with(good, "who", "me"))
		for name, value := range good {
			try(name+"=missing", without(good, name))
			for _, other := range []any{"x", " ", 1, 1.5, -1, true, []any{}, []any{1}, object{}, nil, strings.Repeat("x", 2001), "KD" + strings.Repeat("0", 32)} {
				if _, isObject := value.(object); isObject && fmt.Sprint(other) == "map[]" {
					continue
				}
				try(fmt.Sprintf("%s=%v", name, other), with(good, name, other))
			}
		}
		if _, many := good["filter"]; many {
			try("unknown", with(good, "filter", with(filter, "who", "me")))
			for name := range filter {
				for _, other := range []any{"x", 0, 1, 99, 1001, 1.5, true, []any{}, []any{1}, []any{"r", nil}, object{}, nil, slices.Repeat([]any{"r"}, 1000), slices.Repeat([]any{"r"}, 1001)} {
					try(fmt.Sprintf("filter.%s=%v", name, other), with(good, "filter", with(filter, name, other)))
				}
			}
		}
	}
}

func with(o object, name string, value any) object {
	o = maps.Clone(o)
	o[name] = value
	return o
}

func without(o object, name string) object {
	o = maps.Clone(o)
	delete(o, name)
	return o
}
