package page

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/rawjson"
	"flexworker/internal/terminal"
)

type payloadData struct {
	ID, Body string
	Shown    bool
}

// payloadOf is the payload: as it came, or masked.
func payloadOf(d operator.Detail, open bool) payloadData {
	body := d.Request
	if !open {
		body = mask(body, "")
	}
	return payloadData{ID: d.RequestID, Body: indented(body), Shown: open}
}

// payload shows what is masked elsewhere, and writes down who looked.
func (v *visit) payload() error {
	if text := v.r.PostFormValue("malformed"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return operator.ErrUnknown
		}
		return v.oneMalformed(id, true)
	}
	id := v.r.PostFormValue("id")
	if err := v.showRequest(id, true); err != nil {
		return err
	}
	v.page.Log.Info("a payload was shown", "who", v.caller.Name, "request_id", id)
	return nil
}

// customerOf is by what a person finds the customer of a request in Flex: the addresses of the participants, and the name that the task
// was to have. What has another form is left out.
func customerOf(payload json.RawMessage) (known []fact) {
	var r struct {
		Channel struct {
			Participants []struct{ Address string }
		}
		Routing struct {
			Properties struct{ Attributes json.RawMessage }
		}
	}
	_ = json.Unmarshal(payload, &r) // what could be read is shown
	attributes := r.Routing.Properties.Attributes
	if held, ok := rawjson.Text(attributes); ok { // a string that holds them
		attributes = held
	}
	var task struct{ CustomerName string }
	_ = json.Unmarshal(attributes, &task)
	if task.CustomerName != "" {
		known = append(known, fact{Name: "Customer", Key: task.CustomerName})
	}
	for _, p := range r.Channel.Participants {
		if p.Address != "" {
			known = append(known, fact{Name: "Address", Key: p.Address})
		}
	}
	return known
}

const masked = `"•••"`

// mask is JSON with everything that it says taken out: the names of its members stay, their values do not. under: only
// what this member of the object holds; "": all. What is not JSON is masked whole.
func mask(text json.RawMessage, under string) json.RawMessage {
	var out bytes.Buffer
	m := masker{json.NewDecoder(bytes.NewReader(text)), &out}
	m.in.UseNumber() // number for number
	if m.value(under) != nil {
		return json.RawMessage(masked)
	}
	return out.Bytes()
}

type masker struct {
	in  *json.Decoder
	out *bytes.Buffer
}

// value copies one value: masked or, under a name, with that member of it masked.
func (m masker) value(under string) error {
	token, err := m.in.Token()
	if err != nil {
		return err
	}
	delim, ok := token.(json.Delim)
	switch {
	case !ok && token == nil:
		m.out.WriteString("null")
	case !ok:
		m.out.WriteString(masked)
	}
	if !ok {
		return nil
	}
	m.out.WriteByte(byte(delim))
	for first := true; m.in.More(); first = false {
		if !first {
			m.out.WriteByte(',')
		}
		if err := m.member(delim, under); err != nil {
			return err
		}
	}
	if token, err = m.in.Token(); err == nil {
		fmt.Fprint(m.out, token)
	}
	return err
}

// member copies one member of an object, or one element of an array.
func (m masker) member(of json.Delim, under string) error {
	var name json.Token
	if of == '{' {
		var err error
		if name, err = m.in.Token(); err != nil {
			return err
		}
		encoder := json.NewEncoder(m.out)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(name); err != nil {
			return err
		}
		m.out.WriteByte(':')
	}
	if under == "" || name == under {
		return m.value("")
	}
	var value json.RawMessage
	err := m.in.Decode(&value)
	m.out.Write(value)
	return err
}

// indented is JSON for reading, number for number and text for text. What cannot be printed is escaped.
func indented(text []byte) string {
	var out bytes.Buffer
	if json.Indent(&out, terminal.JSON(text), "", "  ") != nil {
		return terminal.Lines(string(text))
	}
	return out.String()
}
