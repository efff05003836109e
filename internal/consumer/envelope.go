package consumer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// unwrapped is the request's text without its envelope, if there was one, and what
// the envelope or the headers offer.
type unwrapped struct {
	text  []byte
	id    string
	where string // whose id it is, as its sender knows it
	bad   string // why that id cannot be read; of no account where the request has its own
	// The trace context of the CloudEvent's extension.
	traceparent, tracestate string
	// What stands beside the request though it belongs into it, and what only resembles that.
	beside, resembles []rawjson.Fault
}

// unwrap takes the request's text out of its envelope.
func unwrap(m request.Message) (w unwrapped, bad string) {
	w.id, w.where = header(m, jetstream.MsgIDHeader), "the "+jetstream.MsgIDHeader+" header"
	if !structured(m) {
		w.text = m.Raw
		if raw := header(m, "ce-id"); raw != "" {
			w.where = "the header ce-id"
			w.id, w.bad = attribute(raw)
		}
		// What cannot be read of a trace is no fault of the request.
		if w.traceparent, bad = attribute(header(m, "ce-traceparent")); bad == "" {
			w.tracestate, _ = attribute(header(m, "ce-tracestate"))
		}
		for name, values := range m.Headers {
			if len(name) > len("ce-") && strings.EqualFold(name[:len("ce-")], "ce-") && len(values) > 0 && values[0] != "" {
				w.outside(shown(name), strings.ToLower(name[len("ce-"):]), "is a header")
			}
		}
		w.order()
		return w, ""
	}
	if bad := notText(m.Raw); bad != "" {
		return w, "CloudEvent: " + bad
	}
	// A fault within data is the request's, and one in an attribute that nobody
	// reads is nobody's.
	for _, f := range rawjson.Check(m.Raw) {
		if f.Unreadable || f.Path == "id" || f.Path == "data" || f.Path == "data_base64" {
			return w, "CloudEvent: " + f.String()
		}
	}
	if raw := bytes.TrimSpace(m.Raw); len(raw) > 0 && raw[0] != '{' {
		if raw[0] == '[' {
			return w, "CloudEvent: a batch; send one event in a message"
		}
		return w, "CloudEvent: " + notAnObject(raw)
	}
	if raw, ok := rawjson.Member(m.Raw, "id"); ok && !isNull(raw) {
		id, ok := rawjson.Text(raw)
		if !ok {
			return w, "CloudEvent: id: must be a string"
		}
		if len(id) > 0 {
			w.id, w.where = string(id), "the CloudEvent's id"
		}
	}
	w.traceparent, w.tracestate = extension(m.Raw, "traceparent"), extension(m.Raw, "tracestate")
	for _, member := range rawjson.AppendMembers(nil, m.Raw) {
		if name := string(member.Key); !isNull(member.Value) {
			w.outside(shown(name), name, "stands beside the CloudEvent's data")
		}
	}
	w.order()
	if data, ok := rawjson.Member(m.Raw, "data"); ok {
		w.text = data
		return w, ""
	}
	if data, ok := rawjson.Member(m.Raw, "data_base64"); ok {
		encoded, ok := rawjson.Text(data)
		if !ok {
			return w, "CloudEvent: data_base64: must be a string"
		}
		var err error
		if w.text, err = base64.StdEncoding.DecodeString(string(encoded)); err != nil {
			return w, "CloudEvent: data_base64: " + err.Error()
		}
		return w, ""
	}
	return w, "CloudEvent: data: missing; the request has to stand in it"
}

// outside notes an attribute of a CloudEvent whose name is that of a field of the request:
// the field is obeyed within data alone, and an expires_at elsewhere must not be passed over
// in silence. A name that only resembles a field's and that an extension may have, such as
// requestid, may be meant for others: it is a warning. path is the name as its sender knows it.
// https://github.com/cloudevents/spec/blob/main/cloudevents/spec.md#attribute-naming-convention
func (w *unwrapped) outside(path, name, stands string) {
	plain := normalised(name)
	i := slices.IndexFunc(fields, func(f string) bool { return normalised(f) == plain })
	switch {
	case i < 0:
	case name == fields[i] || !extensionName.MatchString(name):
		w.beside = append(w.beside, rawjson.Fault{Path: path, Problem: stands + ", where nobody obeys it: put " + fields[i] + " into the request itself"})
	default:
		w.resembles = append(w.resembles, rawjson.Fault{Path: path, Problem: stands + ", and nobody obeys it; if " + fields[i] + " is meant, put that into the request itself"})
	}
}

var extensionName = regexp.MustCompile(`^[a-z0-9]+$`)

// order sorts what was found beside the request, so that a message says the same each
// time, and bounds it.
func (w *unwrapped) order() {
	for _, list := range []*[]rawjson.Fault{&w.beside, &w.resembles} {
		slices.SortFunc(*list, func(a, b rawjson.Fault) int { return strings.Compare(a.Path, b.Path) })
		*list = (*list)[:min(len(*list), maxWarnings)]
	}
}

// extension is a string attribute of a structured CloudEvent; "": there is none.
func extension(envelope []byte, name string) string {
	raw, _ := rawjson.Member(envelope, name)
	text, _ := rawjson.Text(raw)
	return string(text)
}

// attribute is the value of a CloudEvent's attribute that came in a header: without
// the double quotes of older versions of the specification, and percent-decoded once.
// bad says what is wrong with its encoding. https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md
func attribute(value string) (text, bad string) {
	value = unquoted(value)
	if !strings.Contains(value, "%") {
		return value, "" // bytes that are not UTF-8 are the reader's to judge
	}
	text, err := url.PathUnescape(value)
	if err != nil {
		return "", fmt.Sprintf("is percent-encoded, and has an %v: write %%25 for a percent sign", err)
	}
	if !utf8.ValidString(text) {
		return "", "is not UTF-8 when it is percent-decoded"
	}
	return text, ""
}

// unquoted is the inside of a value that stands in double quotes, RFC 7230, section
// 3.2.6; any other value is as it is.
func unquoted(value string) string {
	if len(value) < 2 || value[0] != '"' {
		return value
	}
	out := make([]byte, 0, len(value))
	for i := 1; i < len(value); i++ {
		switch c := value[i]; {
		case c == '"' && i == len(value)-1:
			return string(out)
		case c == '"':
			return value
		case c == '\\' && i+1 < len(value):
			i++
			out = append(out, value[i])
		default:
			out = append(out, c)
		}
	}
	return value
}

// structured says whether a message is a CloudEvent in the structured form: by its
// content type, or because it says so itself (a request has no specversion). What has
// fields of a request and no data is neither: it is the request itself.
func structured(m request.Message) bool {
	version, said := rawjson.Member(m.Raw, "specversion")
	typed := cloudEventType(m)
	if !typed && !said || !json.Valid(m.Raw) {
		return typed
	}
	object := rawjson.AppendMembers(nil, m.Raw)
	if object.Get("data") != nil || object.Get("data_base64") != nil {
		return true
	}
	for _, name := range [...]string{"request_id", "channel", "routing"} {
		if given(object, name) != nil {
			return false
		}
	}
	return typed || !isNull(version)
}

// cloudEventType says whether the content type is that of a CloudEvent.
func cloudEventType(m request.Message) bool {
	return strings.HasPrefix(strings.ToLower(header(m, "Content-Type")), "application/cloudevents")
}

// header is the first value of a header, whatever the case of its name; of
// several that differ in case it is the first by its bytes.
func header(m request.Message, name string) string {
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
