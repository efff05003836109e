package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"regexp"
	"time"

	"flexworker/internal/terminal"
)

// written are all templates. They are read once: what does not parse fails every test.
var written = template.Must(template.New("").Funcs(template.FuncMap{
	"line":   line,
	"stamp":  newStamp,
	"timed":  timed,
	"reason": func(name, typed string) reason { return reason{name, typed} },
}).ParseFS(files, "templates/*.html"))

// A reason is the field of a form in which a person says why: the name of the form, and what was typed before.
type reason struct{ Name, Typed string }

// line is a text of others on one line, with what cannot be printed made visible.
func line(text any) string {
	if p, ok := text.(*string); ok {
		if p == nil {
			return ""
		}
		text = *p
	}
	return terminal.Line(fmt.Sprint(text))
}

// write executes a template. One that fails leaves its trace in the log and a hole in the page.
func (p *Page) write(out *bytes.Buffer, name string, data any) {
	if err := written.ExecuteTemplate(out, name, data); err != nil {
		p.Log.Error("a template failed", "template", name, "error", err)
	}
}

// A stamp is a moment as a page shows it. In prose, one without Machine is the text between two moments.
type stamp struct{ Machine, UTC string }

// newStamp is the stamp of a time.Time or *time.Time; nil: there is no time.
func newStamp(at any) *stamp {
	var t time.Time
	switch at := at.(type) {
	case time.Time:
		t = at
	case *time.Time:
		if at != nil {
			t = *at
		}
	}
	if t.IsZero() {
		return nil
	}
	return &stamp{t.UTC().Format("2006-01-02T15:04:05.000Z"), t.UTC().Format("2006-01-02 15:04:05 UTC")}
}

// showTime finds what request.ShowTime wrote.
var showTime = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})? UTC`)

// timed parts prose into moments, to which a browser can add its own time, and the text between them. What cannot be printed is made
// visible.
func timed(prose any) []stamp {
	text := line(prose)
	var parts []stamp
	for {
		at := showTime.FindStringIndex(text)
		if at == nil {
			return append(parts, stamp{UTC: text})
		}
		parts = append(parts, stamp{UTC: text[:at[0]]})
		found := text[at[0]:at[1]]
		if t, err := time.Parse("2006-01-02 15:04:05 UTC", found); err == nil {
			parts = append(parts, *newStamp(t))
		} else {
			parts = append(parts, stamp{UTC: found})
		}
		text = text[at[1]:]
	}
}

// span is a length of time as people say it.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// assets are the tags of the embedded files, by which a browser knows whether its copy is ours.
var assets = func() map[string]string {
	tags := map[string]string{}
	entries, err := files.ReadDir("static")
	if err != nil {
		panic(err) // they are embedded
	}
	for _, e := range entries {
		text, err := files.ReadFile("static/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(text)
		tags[e.Name()] = `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	}
	return tags
}()
