package consumer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox"
	"flexworker/internal/rawjson"
)

// maxRequestID is the longest request id in bytes.
const maxRequestID = 256

// decode turns a message into an event, or says why it cannot become one.
//
// What has a usable id and can be read as JSON is an event, however faulty; its
// faults are all named and it is rejected under its id. All else is malformed.
func decode(m outbox.Message, lookupAttribute string) (outbox.Event, string) {
	e := outbox.Event{Message: m}
	text, id, bad := unwrap(m)
	if bad != "" {
		return e, bad
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return e, "the message is empty; a request is a JSON object"
	}
	if faults := rawjson.Check(text); len(faults) > 0 {
		for _, f := range faults {
			if f.Unreadable {
				return e, f.String()
			}
		}
		e.Faults = faults
	}
	if e.RequestID, bad = requestID(text, id, e.Faults); bad != "" {
		return e, bad
	}
	if len(e.Faults) > 0 {
		return e, ""
	}
	e.Request = text
	check(&e, lookupAttribute)
	return e, ""
}

// unwrap takes the request's text out of its envelope, if there is one, and
// gives the id that the envelope or the header offers.
func unwrap(m outbox.Message) (text []byte, id, bad string) {
	id = header(m, jetstream.MsgIDHeader)
	if !structured(m) {
		if binary := header(m, "ce-id"); binary != "" {
			id = binary
		}
		return m.Raw, id, ""
	}
	// A fault within data is the request's, and one in an attribute that nobody
	// reads is nobody's.
	for _, f := range rawjson.Check(m.Raw) {
		if f.Unreadable || f.Path == "id" || f.Path == "data" || f.Path == "data_base64" {
			return nil, "", "CloudEvent: " + f.String()
		}
	}
	if raw := bytes.TrimSpace(m.Raw); len(raw) > 0 && raw[0] == '[' {
		return nil, "", "CloudEvent: a batch; send one event in a message"
	}
	if raw, ok := rawjson.Member(m.Raw, "id"); ok {
		if json.Unmarshal(raw, &id) != nil {
			return nil, "", "CloudEvent: id: must be a string"
		}
	}
	if data, ok := rawjson.Member(m.Raw, "data"); ok {
		return data, id, ""
	}
	if data, ok := rawjson.Member(m.Raw, "data_base64"); ok {
		var encoded string
		if json.Unmarshal(data, &encoded) != nil {
			return nil, "", "CloudEvent: data_base64: must be a string"
		}
		text, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, "", "CloudEvent: data_base64: " + err.Error()
		}
		return text, id, ""
	}
	return nil, "", "CloudEvent: data: missing; the request has to stand in it"
}

// structured says whether a message is a CloudEvent in the structured form: by
// its content type, or because it says so itself (a request has no specversion).
func structured(m outbox.Message) bool {
	if strings.HasPrefix(strings.ToLower(header(m, "Content-Type")), "application/cloudevents") {
		return true
	}
	_, ok := rawjson.Member(m.Raw, "specversion")
	return ok && json.Valid(m.Raw)
}

// header is the first value of a header, whatever the case of its name; of
// several that differ in case it is the first by its bytes.
func header(m outbox.Message, name string) string {
	found := ""
	for n, values := range m.Headers {
		if len(values) > 0 && strings.EqualFold(n, name) && (found == "" || n < found) {
			found = n
		}
	}
	if found == "" {
		return ""
	}
	return m.Headers[found][0]
}

// requestID is the request's own id, else the one that came around it.
func requestID(text []byte, offered string, faults []rawjson.Fault) (id, bad string) {
	for _, f := range faults {
		if f.Path == "request_id" {
			return "", f.String()
		}
	}
	id = offered
	where := "the id of the envelope or of the " + jetstream.MsgIDHeader + " header"
	if raw, ok := rawjson.Member(text, "request_id"); ok && !bytes.Equal(raw, []byte("null")) {
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
	} else if id == "" {
		return "", "request_id: missing, and there is no " + jetstream.MsgIDHeader + " header either"
	}
	if problem := idProblem(id); problem != "" {
		return "", where + ": " + problem
	}
	return id, ""
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
		// Format characters join emoji and turn the writing direction; they are
		// text. Everything that ends a line or is no character is not.
		if !unicode.IsGraphic(r) && !unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return fmt.Sprintf("has the unprintable character %U", r)
		}
	}
	return ""
}
