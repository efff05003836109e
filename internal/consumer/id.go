package consumer

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// maxRequestID is the longest request id in bytes.
const maxRequestID = 256

// requestID is the request's own id, else the one that came around it.
func requestID(m request.Message, w unwrapped, faults []rawjson.Fault) (id, bad string) {
	for _, f := range faults {
		if f.Path == "request_id" {
			return "", f.String()
		}
	}
	id = w.id
	where := w.where
	if raw, ok := rawjson.Member(w.text, "request_id"); ok && !isNull(raw) {
		where = "request_id"
		if len(faults) > 0 { // behind many its own were not reported
			for _, f := range rawjson.Check(raw) {
				return "", where + ": " + f.Problem
			}
		}
		text, ok := rawjson.Text(raw)
		if !ok {
			return "", "request_id: must be a string"
		}
		id = string(text)
	} else if w.bad != "" {
		return "", where + ": " + w.bad
	} else if id == "" {
		return "", noID(m, w)
	}
	if problem := idProblem(id); problem != "" {
		return "", where + ": " + problem
	}
	return id, ""
}

// noID says why a message has no id: by what it seems to be, as far as it seems to
// be something else than a request.
func noID(m request.Message, w unwrapped) string {
	if what := notAnObject(w.text); what != "" {
		return what
	}
	missing := "request_id: missing, and there is no " + jetstream.MsgIDHeader + " header either"
	for _, f := range slices.Concat(w.beside, w.resembles) {
		if strings.Contains(normalised(f.Path), "requestid") {
			return missing + "; " + f.String()
		}
	}
	object := rawjson.AppendMembers(nil, w.text)
	for _, p := range object {
		if name := string(p.Key); normalised(name) == "requestid" {
			return fmt.Sprintf("%s; it is not %s", missing, shown(name))
		}
	}
	if header(m, "ce_id") != "" || header(m, "ce_specversion") != "" {
		return missing + "; ce_id and the like are the headers of CloudEvents in Kafka: in NATS they are ce-id"
	}
	if !structured(m) && (given(object, "specversion") != nil || cloudEventType(m)) {
		return missing + "; the request of a CloudEvent stands in its data"
	}
	if what := envelope(object); what != "" {
		return missing + "; " + what
	}
	return missing
}

// envelope says what an object seems to be that has the request within a member;
// "": nothing. A request has no such member.
func envelope(object rawjson.Object) string {
	if object.Get("channel") != nil {
		return ""
	}
	if object.Get("data") != nil || object.Get("data_base64") != nil {
		for _, name := range []string{"id", "source", "type"} {
			if object.Get(name) != nil {
				return `this seems to be a CloudEvent without specversion: add "specversion":"1.0", or send its data alone`
			}
		}
		return `the request stands in data, which only a CloudEvent has: add "specversion":"1.0" and id, source and type, or send what is in data alone`
	}
	for _, p := range object {
		if inner, ok := rawjson.Text(p.Value); ok {
			p.Value = inner
		}
		if _, ok := rawjson.Member(p.Value, "channel"); ok && isObject(p.Value) && rawjson.Valid(p.Value) {
			return "the request stands in " + shown(string(p.Key)) + ": send that alone"
		}
	}
	return ""
}

// idProblem says what keeps an id from being 1 to 256 bytes of printable text.
func idProblem(id string) string {
	switch {
	case id == "":
		return "must not be empty"
	case len(id) > maxRequestID:
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(id), maxRequestID)
	case !utf8.ValidString(id):
		return "is not UTF-8"
	}
	for _, r := range id {
		switch {
		case unseen(r):
			return fmt.Sprintf("has the character %U, which cannot be seen", r)
		case r != ' ' && unicode.Is(unicode.Zs, r):
			return fmt.Sprintf("has the character %U, which cannot be told from a space", r)
		case !unicode.IsPrint(r) && !unicode.Is(unicode.Prepended_Concatenation_Mark, r):
			return fmt.Sprintf("has the unprintable character %U", r)
		}
	}
	if id[0] == ' ' || id[len(id)-1] == ' ' {
		return "begins or ends with a space, which cannot be seen"
	}
	return ""
}

// unseen says whether a character is one that readers do not see: what joins others,
// turns the writing direction, selects a variant, fills, or tags. Two ids that differ
// in such a one alone look the same. It is Unicode's Default_Ignorable_Code_Point, with
// two symbols that are blank and the marks of interlinear annotation; of the format
// characters those that print a mark over digits are seen.
// https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point
func unseen(r rune) bool {
	return unicode.Is(unicode.Cf, r) && !unicode.Is(unicode.Prepended_Concatenation_Mark, r) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) ||
		r == '\u2800' || r == '\U0001d159'
}
