package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"flexworker/internal/rawjson"
)

// bodyMost is how many bytes a body may have.
const bodyMost = 1 << 20

// fields are the members of an object that somebody sent, or the parameters of a query. What is read is taken out;
// what is wrong is noted, so that all faults are told together.
type fields struct {
	path   string // of the object, with a dot behind it; "": the body or the query itself
	query  bool   // all values are text
	raw    map[string]json.RawMessage
	faults *[]fault
}

// body reads the body of a request as an object of JSON.
func body(w http.ResponseWriter, r *http.Request) (text []byte, f fields, err error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, f, newProblem("media-type", "Send the body as Content-Type: application/json.")
	}
	text, err = io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMost))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, f, newProblem("too-large", fmt.Sprintf("A body may have %d bytes.", bodyMost))
	}
	if err != nil {
		return nil, f, newProblem("invalid", "The body did not come whole.")
	}
	f = fields{faults: &[]fault{}}
	for _, wrong := range rawjson.Check(text) {
		f.wrong(wrong.Path, wrong.Problem)
	}
	if len(*f.faults) == 0 && (json.Unmarshal(text, &f.raw) != nil || f.raw == nil) {
		f.wrong("", "is no object")
	}
	return text, f, f.fault()
}

// parameters are those of the query.
func parameters(r *http.Request) fields {
	f := fields{query: true, raw: map[string]json.RawMessage{}, faults: &[]fault{}}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		f.wrong("", "is no query that can be read")
	}
	for name, all := range values {
		if len(all) > 1 {
			f.wrong(name, "stands twice")
		}
		f.raw[name], _ = json.Marshal(all[0]) // of a string; what is no UTF-8 is replaced
		if !utf8.ValidString(all[0]) || strings.ContainsRune(all[0], 0) {
			f.wrong(name, "is not UTF-8 text without NUL")
		}
	}
	return f
}

func (f fields) wrong(name, problem string) {
	*f.faults = append(*f.faults, fault{f.path + name, problem})
}

// take takes a member out; ok is false where there is none. A null is wrong: it may mean all, or none.
func (f fields) take(name string) (raw json.RawMessage, ok bool) {
	raw, ok = f.raw[name]
	delete(f.raw, name)
	if string(raw) == "null" {
		f.wrong(name, "must not be null: leave it out")
		return nil, false
	}
	return raw, ok
}

// text is a member that is a string of at most most characters; "": there is none.
func (f fields) text(name string, most int) (text string) {
	raw, ok := f.take(name)
	switch {
	case !ok:
	case json.Unmarshal(raw, &text) != nil:
		f.wrong(name, "must be a string")
	case utf8.RuneCountInString(text) > most:
		f.wrong(name, fmt.Sprintf("may have %d characters", most))
	}
	return text
}

// required is a text that must be there and not be blank.
func (f fields) required(name string, most int) string {
	n := len(*f.faults)
	text := f.text(name, most)
	if strings.TrimSpace(text) == "" && n == len(*f.faults) {
		f.wrong(name, "is required")
	}
	return text
}

// oneOf is a text that must be one of these, or not be there.
func (f fields) oneOf(name string, words ...string) string {
	text := f.text(name, 256)
	if text != "" && !slices.Contains(words, text) {
		f.wrong(name, "must be one of "+strings.Join(words, ", "))
	}
	return text
}

// texts is a member that is an array of at most most strings; nil: there is none.
func (f fields) texts(name string, most int) []string {
	raw, ok := f.take(name)
	if !ok {
		return nil
	}
	var list []*string // a null in it would be read as ""
	if json.Unmarshal(raw, &list) != nil || slices.Contains(list, nil) {
		f.wrong(name, "must be an array of strings")
		return nil
	}
	if len(list) > most {
		f.wrong(name, fmt.Sprintf("may name %d", most))
	}
	texts := make([]string, len(list))
	for i, text := range list {
		texts[i] = *text
	}
	return texts
}

// flag is a member that is true or false; false: there is none.
func (f fields) flag(name string) (set bool) {
	raw, ok := f.take(name)
	if f.query {
		raw = json.RawMessage(strings.Trim(string(raw), `"`))
	}
	if ok && json.Unmarshal(raw, &set) != nil {
		f.wrong(name, "must be true or false")
	}
	return set
}

// number is a member that is a whole number from least to most; 0: there is none.
func (f fields) number(name string, least, most int) (n int) {
	raw, ok := f.take(name)
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(string(raw))
	if f.query {
		n, err = strconv.Atoi(strings.Trim(string(raw), `"`))
	}
	if err != nil || n < least || n > most {
		f.wrong(name, fmt.Sprintf("must be a whole number from %d to %d", least, most))
	}
	return n
}

// duration is a member such as "90m" or "12h"; 0: there is none.
func (f fields) duration(name string) time.Duration {
	text := f.text(name, 64)
	d, err := time.ParseDuration(text)
	if text != "" && (err != nil || d <= 0) {
		f.wrong(name, `must be a duration such as "90m" or "12h"`)
	}
	return d
}

// time is a member such as "2026-11-22T09:00:00Z"; the zero time: there is none.
func (f fields) time(name string) time.Time {
	text := f.text(name, 64)
	at, err := time.Parse(time.RFC3339, text)
	if text != "" && err != nil {
		f.wrong(name, `must be a time such as "2026-11-22T09:00:00Z"`)
	}
	return at
}

// object is a member that is an object and must be there.
func (f fields) object(name string) fields {
	in := fields{path: f.path + name + ".", faults: f.faults}
	n := len(*f.faults)
	raw, ok := f.take(name)
	switch {
	case !ok && n == len(*f.faults):
		f.wrong(name, "is required")
	case !ok:
	case json.Unmarshal(raw, &in.raw) != nil:
		f.wrong(name, "must be an object")
	}
	return in
}

// done notes what was not taken: nobody must believe that it was obeyed.
func (f fields) done() {
	names := make([]string, 0, len(f.raw))
	for name := range f.raw {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f.wrong(name, "is not known here")
	}
}

// fault is the problem that names all faults; nil: there are none.
func (f fields) fault() error {
	if len(*f.faults) == 0 {
		return nil
	}
	p := newProblem("invalid", "Nothing was changed.")
	p.Faults = *f.faults
	return p
}
