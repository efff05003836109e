package consumer

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
	"flexworker/internal/testing/contract"
)

// A leniency is what the decoder refuses and docs/schema/request.json takes, since a schema cannot say it.
type leniency struct {
	fault   *regexp.Regexp
	when    func(text []byte) bool // nil: always
	why     string
	example string // a message without headers that has this fault alone
}

func lenient(fault, why, example string) leniency {
	return leniency{fault: regexp.MustCompile(fault), why: why, example: example}
}

// leniencies are all of them. TestLeniencies shows that each is one.
var leniencies = []leniency{
	lenient(`stands twice$`, "a schema is asked about values, in which a key stands once", requestAnd(`"metadata":{"a":1,"a":2}`)),
	lenient(`holds \\u0000, which Postgres cannot keep$`, "it would need a pattern in each text of whatever depth", requestAnd(`"metadata":"\u0000"`)),
	lenient(`holds half of a surrogate pair`, "a JSON reader replaces it", requestAnd(`"metadata":"\ud800"`)),
	lenient(`number out of range`, "a schema has bounds for numbers it knows of, not for all", requestAnd(`"metadata":1e400`)),
	lenient(`number of \d+ characters$`, "a schema sees a number's value", requestAnd(`"metadata":`+strings.Repeat("1", 1001))),
	lenient(`nested deeper than 100 levels$`, "a schema that refers to itself has no depth", requestAnd(`"metadata":`+strings.Repeat("[", 100)+strings.Repeat("]", 100))),
	lenient(`^and \d+ more$`, "it stands for faults like those before it", requestAnd(`"metadata":[`+strings.Repeat(`"\u0000",`, 30)+`1]`)),
	lenient(`^request_id: missing, and there is no Nats-Msg-Id header either`, "the id may come in a header or with a CloudEvent", bodyOK),
	lenient(`^request_id: has \d+ bytes`, "a schema counts characters", withID(`"`+strings.Repeat("ü", 129)+`"`)),
	lenient(`^request_id: has the (unprintable )?character U\+(00AD|0[1-9A-F]..|[1-9A-F].{3,})`, "Unicode has thousands of them, and not every reader of patterns knows its properties", withID(`"a\u200bb"`)),
	lenient(`^routing\.properties\.attributes: has \d+ characters`, "a schema does not count the characters of an object", requestWith(`"attributes":{"n":"`+strings.Repeat("x", 4096)+`"}`)),
	lenient(`^routing\.properties\.attributes: the string must hold a JSON object`, "a schema does not look into a string", requestWith(`"attributes":"name=Ada"`)),
	{regexp.MustCompile(`^routing\.properties\.attributes: must be an object, or a string that holds one$`), attributesAreText, "a schema does not look into a string", requestWith(`"attributes":"[]"`)},
	lenient(`is the worker's own key; choose another name$`, "its name is a setting, LOOKUP_ATTRIBUTE", requestWith(`"attributes":{"interaction_request":1}`)),
	{regexp.MustCompile(`^priority: must be a whole number from 0 to 9$`), priorityIsDecimal, "1.0 is a whole number to a schema", requestAnd(`"priority":1.0`)},
	lenient(`^(not_before|expires_at): is before 1970$`, "a schema does not compare times", requestAnd(`"expires_at":"1969-12-31T23:59:59Z"`)),
	lenient(`^(not_before|expires_at): is after 9999$`, "a schema does not compare times", requestAnd(`"expires_at":"9999-12-31T23:59:59-01:00"`)),
	lenient(`^expires_at: is not after not_before`, "a schema does not compare two fields", requestAnd(`"not_before":"2026-11-22T09:00:00Z","expires_at":"2026-11-22T09:00:00Z"`)),
	lenient(`(stands beside the CloudEvent's data|is a header), where nobody obeys it`, "the schema is about the request, not about what is around it",
		`{"specversion":"1.0","id":"a","priority":3,"data":`+bodyOK+`}`),
}

func attributesAreText(text []byte) bool {
	raw, _ := rawjson.Member(text, "routing", "properties", "attributes")
	return bytes.HasPrefix(raw, []byte(`"`))
}

func priorityIsDecimal(text []byte) bool {
	raw, _ := rawjson.Member(text, "priority")
	return bytes.ContainsAny(raw, ".eE")
}

// outside are faults of what is around a request, or of what is no JSON text at all: there is no value to ask a schema about.
var outside = regexp.MustCompile(`^(CloudEvent: |the (Nats-Msg-Id header|header ce-id|CloudEvent's id): |not JSON|not UTF-8|the message is empty|begins with a byte order mark|is (UTF-|compressed))`)

// remark are faults of the whole request that say more about others, which have their places.
var remark = regexp.MustCompile(`^and \d+ more fields that a request does not have$|^this seems to be a CloudEvent without specversion|^the request stands in `)

// agree holds the decoder's verdict about a message and the schema's about the request in it against each other: the schema
// takes whatever the decoder takes, and refuses, at the same place, whatever the decoder refuses and is no leniency.
func agree(t *testing.T, m request.Message, attribute string) {
	t.Helper()
	e, malformed := decode(m, attribute)
	w, _ := unwrap(m)
	faults := e.Faults
	if malformed != "" {
		if outside.MatchString(malformed) {
			return
		}
		path, problem, found := strings.Cut(malformed, ": ")
		if !found || strings.Contains(path, " ") {
			path, problem = "", malformed
		}
		faults = []rawjson.Fault{{Path: path, Problem: problem}}
	}
	var strict []rawjson.Fault
	for _, f := range faults {
		if !excused(f, w.text) {
			strict = append(strict, f)
		}
	}
	if len(faults) > 0 && len(strict) == 0 {
		return
	}
	err := contract.Request(w.text)
	if err == nil && len(strict) > 0 {
		t.Errorf("the schema takes what the decoder refuses, %v: %s", strict, brief(w.text))
	}
	if err == nil || len(strict) == 0 {
		if err != nil {
			t.Errorf("the schema refuses what the decoder takes, %v: %s", err, brief(w.text))
		}
		return
	}
	at := places(err)
	for _, f := range strict {
		if !at[f.Path] && !remark.MatchString(f.Problem) {
			t.Errorf("the decoder has a fault at %q (%s), the schema at %v: %s", f.Path, f.Problem, at, brief(w.text))
		}
	}
}

func excused(f rawjson.Fault, text []byte) bool {
	for _, l := range leniencies {
		if l.fault.MatchString(f.String()) && (l.when == nil || l.when(text)) {
			return true
		}
	}
	return false
}

// places are where a schema found faults, as the decoder writes paths. One within participants is none of the decoder's.
func places(err error) map[string]bool {
	at := map[string]bool{}
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			walk(cause)
		}
		if len(e.Causes) > 0 {
			return
		}
		path := make([]string, len(e.InstanceLocation))
		for i, name := range e.InstanceLocation {
			path[i] = shown(name)
		}
		if r, ok := e.ErrorKind.(*kind.Required); ok {
			for _, missing := range r.Missing {
				at[strings.Join(append(path[:len(path):len(path)], missing), ".")] = true
			}
			return
		}
		at[strings.Join(path, ".")] = true
	}
	var top *jsonschema.ValidationError
	if errors.As(err, &top) {
		walk(top)
	}
	return at
}

func brief(text []byte) string {
	const most = 300
	if len(text) > most {
		return fmt.Sprintf("%s… (%d bytes)", text[:most], len(text))
	}
	return string(text)
}

// TestLeniencies: each of them is refused by the decoder for that alone, and taken by the schema.
func TestLeniencies(t *testing.T) {
	t.Parallel()
	for _, l := range leniencies {
		m := message(nil, l.example)
		e, malformed := decode(m, "interaction_request")
		faults := e.Faults
		if malformed != "" {
			faults = []rawjson.Fault{{Problem: malformed}}
		}
		w, _ := unwrap(m)
		if len(faults) == 0 || l.why == "" {
			t.Errorf("%s: nothing is wrong with its example", l.fault)
		}
		for _, f := range faults {
			if !l.fault.MatchString(f.String()) && !excused(f, w.text) {
				t.Errorf("%s: its example has the fault %s", l.fault, f)
			}
		}
		last := faults[max(0, len(faults)-1)]
		if !l.fault.MatchString(last.String()) || l.when != nil && !l.when(w.text) {
			t.Errorf("%s: its example has the fault %s", l.fault, last)
		}
		if err := contract.Request(w.text); err != nil {
			t.Errorf("%s is no leniency, the schema refuses it too: %v", l.fault, err)
		}
	}
}
