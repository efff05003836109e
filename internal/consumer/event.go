package consumer

import (
	"bytes"
	"errors"
	"slices"

	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// decode turns a message into an event, or says why it cannot become one.
//
// What has a usable id and can be read as JSON is an event, however faulty; its
// faults are all named and it is rejected under its id. All else is malformed.
// The event carries the message in both cases, with its trace context.
func decode(m request.Message, lookupAttribute string) (request.Event, string) {
	e := request.Event{Message: m}
	w, bad := unwrap(m)
	if e.Traceparent == "" {
		e.Traceparent, e.Tracestate = w.traceparent, w.tracestate
	}
	if bad != "" {
		return e, bad
	}
	if len(bytes.TrimSpace(w.text)) == 0 {
		return e, "the message is empty; a request is a JSON object"
	}
	if bad = notText(w.text); bad != "" {
		return e, bad
	}
	if faults := rawjson.Check(w.text); len(faults) > 0 {
		for _, f := range faults {
			if f.Unreadable {
				return e, f.String()
			}
		}
		e.Faults = faults
	}
	if e.RequestID, bad = requestID(m, w, e.Faults); bad != "" {
		return e, bad
	}
	if len(e.Faults) == 0 {
		e.Request = w.text
		check(&e, lookupAttribute)
	}
	e.Faults = append(e.Faults, w.beside...)
	e.Warnings = append(e.Warnings, w.resembles...)
	return e, ""
}

// RequestID is the id under which a worker keeps a message with this text and without
// headers, or an error with the words with which a worker answers it as malformed.
func RequestID(text []byte) (string, error) {
	e, bad := decode(request.Message{Raw: text}, "")
	if bad != "" {
		return "", errors.New(bad)
	}
	return e.RequestID, nil
}

// notText names what is no UTF-8 text of JSON by its first bytes, and what to do: a
// JSON reader would only complain of a character.
func notText(text []byte) string {
	begins := func(with ...string) bool {
		return slices.ContainsFunc(with, func(w string) bool { return bytes.HasPrefix(text, []byte(w)) })
	}
	switch {
	case begins("\xff\xfe\x00\x00", "\x00\x00\xfe\xff", "\x00\x00\x00"):
		return "is UTF-32: send it as UTF-8"
	case begins("\xff\xfe", "\xfe\xff"), len(text) > 1 && (text[0] == 0) != (text[1] == 0):
		return "is UTF-16: send it as UTF-8"
	case begins("\xef\xbb\xbf"):
		return "begins with a byte order mark (U+FEFF), which JSON must not have: send it as UTF-8 without one"
	case begins("\x1f\x8b"):
		return "is compressed with gzip: send the JSON text as it is"
	case begins("\x28\xb5\x2f\xfd"):
		return "is compressed with zstd: send the JSON text as it is"
	case begins("\x78\x01", "\x78\x9c", "\x78\xda"):
		return "is compressed with zlib (deflate): send the JSON text as it is"
	default:
		return ""
	}
}

// notAnObject says what stands where a request should, and what to do; "" for an object.
func notAnObject(text []byte) string {
	const must = "a request must be a JSON object"
	switch text = bytes.TrimSpace(text); {
	case len(text) == 0 || text[0] == '{':
		return ""
	case text[0] == '[':
		return must + ", and this is an array: send one request in a message"
	case text[0] == '"':
		if inner, ok := rawjson.Text(text); ok && isObject(inner) && rawjson.Valid(inner) {
			return must + ", and this is a string that holds one: it was encoded twice; send the object itself"
		}
		return must + ", and this is a string"
	case isNull(text):
		return must + ", and this is null"
	case text[0] == 't' || text[0] == 'f':
		return must + ", and this is " + string(text)
	default:
		return must + ", and this is a number"
	}
}
