package flex

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"flexworker/internal/rawjson"
)

// readList is what a list named "l" tells in text.
func readList(text string) (elements []string, next string, err error) {
	l := list{name: "l", each: func(raw []byte) { elements = append(elements, string(raw)) }}
	err = l.read(iotest{strings.NewReader(text)})
	return elements, l.next, err
}

// iotest gives a few bytes at a time.
type iotest struct{ r io.Reader }

func (s iotest) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), 7)]) }

func TestList(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, want, next string
		ok               bool
	}{
		{`{"l":[]}`, "", "", true},
		{` { "meta":{"next_page_url":"u"} , "l" : [ 1 , {"a":[ ]} ,"x"],"m":null } ` + "\n", `1 {"a":[ ]} "x"`, "u", true},
		{`{"l":[1],"meta":{"next_page_url":null}}`, "1", "", true},
		{`{"\u006c":[1],"meta":7}`, "1", "", true},
		{text: `{"k":[1]}`}, {text: `{"l":null}`}, {text: `{"l":{}}`}, {text: `{"l":7}`}, {text: `[]`}, {text: `"l"`}, {text: ``}, {text: `<html>`},
		{text: `{"l":[1],"l":[2]}`}, {text: `{"l":[1]} {}`}, {text: `{"l":[1]}x`}, {text: `{"l":[1,]}`}, {text: `{"l":[1 2]}`}, {text: `{"l":[1],}`},
		{text: `{"l":[01]}`}, {text: `{"l":[1}`}, {text: `{"l" [1]}`}, {text: `{"l":[1]"m":2}`}, {text: `{l:[1]}`},
	} {
		elements, next, err := readList(tt.text)
		if (err == nil) != tt.ok || tt.ok && (strings.Join(elements, " ") != tt.want || next != tt.next) {
			t.Errorf("%s: %q, %q, %v", tt.text, elements, next, err)
		}
		for n := range len(strings.TrimSpace(tt.text)) { // cut anywhere, it is no page
			if _, _, err := readList(tt.text[:n]); tt.ok && err == nil {
				t.Errorf("%s: passes for a page", tt.text[:n])
			}
		}
	}
}

// TestListTooLong: one element, or all of them, may be as long as that.
func TestListTooLong(t *testing.T) {
	t.Parallel()
	element := func(n int) io.Reader { return strings.NewReader(`,"` + strings.Repeat("x", n-3) + `"`) }
	for _, tt := range []struct {
		name     string
		size     int // of an element
		elements int
		ok       bool
	}{
		{"elements", maxElement - 1, 3, true},
		{"an element", maxElement + 1, 3, false},
		{"a page", maxElement / 2, 31, true},
		{"more than a page", maxElement / 2, 32, false},
	} {
		parts := []io.Reader{strings.NewReader(`{"l":[0`)}
		for range tt.elements {
			parts = append(parts, element(tt.size))
		}
		body := &counter{r: io.MultiReader(append(parts, strings.NewReader(`],"more":"`+strings.Repeat("x", 100)+`"}`))...)}
		l := list{name: "l", each: func([]byte) {}}
		err := l.read(body)
		if (err == nil) != tt.ok || !tt.ok && !errors.Is(err, errTooLong) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if body.n > maxList {
			t.Errorf("%s: %d bytes were read", tt.name, body.n)
		}
	}
}

type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// FuzzList: what is read as a stream is what stands in the whole.
func FuzzList(f *testing.F) {
	for _, s := range []string{`{"l":[1,"x",{}],"meta":{"next_page_url":"u"}}`, `{"l":[],"l":[]}`, `{"l":[1,]}`, `{"meta":{"next_page_url":1},"l":[ ] }`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		elements, _, err := readList(text)
		if err != nil {
			return
		}
		raw, ok := rawjson.Member([]byte(text), "l")
		var want []json.RawMessage
		if !json.Valid([]byte(text)) || !ok || json.Unmarshal(raw, &want) != nil ||
			!slices.EqualFunc(elements, want, func(a string, b json.RawMessage) bool { return a == string(b) }) {
			t.Errorf("%q: %q, want %q", text, elements, want)
		}
	})
}

// pipes is a listener and the dialer to it, without a socket between: what one
// end has written, the other has read. A kernel would hide megabytes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours, nil
}

// fullLog is the log of a busy account: each page is full of other people's
// events with attributes of 6 KB. near is called when all but the last event of a
// page is read.
func fullLog(t testing.TB, near func()) *Client {
	p := pipes{make(chan net.Conn), make(chan struct{})}
	event := `{"event_type":"task.created","resource_sid":"WT%032d","event_data":{"task_attributes":` +
		text(`{"interaction_request":"%032x","flexInteractionSid":"`+kd+`","notes":"`+strings.Repeat("x", 6000)+`"}`) + `}}`
	n := 0
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page := bufio.NewWriter(w)
		io.WriteString(page, `{"events":[`)
		for range fullPage - 1 {
			n++
			fmt.Fprintf(page, event+",", n, n)
		}
		_ = page.Flush()
		_ = http.NewResponseController(w).Flush()
		near()
		fmt.Fprintf(page, event+`]}`, 0, 0)
		_ = page.Flush()
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(p) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	c := newClient(t, "http://127.0.0.1:1")
	c.transport.DialContext = p.dial
	t.Cleanup(c.CloseIdle)
	return c
}

// TestEventsMemory: however much the log holds, hardly more is kept than what was
// asked for. It runs while no other test does, as it measures the whole heap.
func TestEventsMemory(t *testing.T) {
	const most = 1 << 20 // of pages of 6 MiB
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var before, largest int64
	c := fullLog(t, func() { largest = max(largest, live()-before) })
	before = live()
	found, complete, err := c.Events(t.Context(), ws, "interaction_request", []string{key}, someday, someday.Add(time.Second))
	if err != nil || complete || len(found) != 0 {
		t.Errorf("%d, %v, %v", len(found), complete, err)
	}
	if largest == 0 || largest > most {
		t.Errorf("%d KiB were held, at most %d may be", largest>>10, most>>10)
	}
}

// BenchmarkEvents reads one page of 6 MiB.
func BenchmarkEvents(b *testing.B) {
	c := fullLog(b, func() {})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := c.Events(b.Context(), ws, "interaction_request", []string{key}, someday, someday.Add(time.Second)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestEventsKeys: tasks with the keys of others are not returned, and a page that
// is cut is no page, whatever stood in it.
func TestEventsKeys(t *testing.T) {
	t.Parallel()
	page := `{"events":[`
	for n, attributes := range []string{withKey(other), withKey(key), `"{}"`} {
		page += fmt.Sprintf(`{"event_type":"task.created","resource_sid":"WT%032d","event_data":{"task_attributes":%s}},`, n, attributes)
	}
	page = strings.TrimSuffix(page, ",") + `]}`
	for _, tt := range []struct {
		text     string
		found    int
		complete bool
	}{{page, 1, true}, {page[:len(page)-1], 0, false}, {page[:len(page)-2], 0, false}} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, tt.text) })
		got, complete, err := newClient(t, s.URL).Events(t.Context(), ws, "interaction_request", []string{key}, someday, someday.Add(time.Second))
		if (err == nil) != tt.complete || complete != tt.complete || len(got) != tt.found || len(got) > 0 && got[0].Key != key {
			t.Errorf("%+v, %v, %v", got, complete, err)
		}
	}
}
