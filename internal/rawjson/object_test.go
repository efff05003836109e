package rawjson

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestObject(t *testing.T) {
	t.Parallel()
	o := AppendMembers(Object{{Key: []byte("x")}}, []byte(` {"a" : [1, {"a":2}] ,"\u0062":"}" , "a":3,"":null} `))
	want := []struct{ key, value string }{{"x", ""}, {"a", `[1, {"a":2}]`}, {"b", `"}"`}, {"a", "3"}, {"", "null"}}
	if len(o) != len(want) {
		t.Fatalf("%d members, want %d", len(o), len(want))
	}
	for n, w := range want {
		if string(o[n].Key) != w.key || string(o[n].Value) != w.value || cap(o[n].Value) != len(o[n].Value) {
			t.Errorf("member %d is %q: %q", n, o[n].Key, o[n].Value)
		}
	}
	if got := string(o.Get("a")); got != `[1, {"a":2}]` {
		t.Errorf("of double keys not the first, but %s", got)
	}
	if got := o.Get("z"); got != nil {
		t.Errorf("absent, but %q", got)
	}
	for _, text := range []string{``, ` `, `null`, `[{"a":1}]`, `"{"`, `{}`} {
		if o := AppendMembers(nil, []byte(text)); o != nil {
			t.Errorf("%s has %d members", text, len(o))
		}
	}
}

func TestObjectAllocatesNothing(t *testing.T) {
	var sum int
	if n := testing.AllocsPerRun(100, func() {
		var room [16]Pair
		o := AppendMembers(room[:0], event)
		sum += len(o.Get("metadata"))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzObject: one pass finds what Member finds, and Text reads what encoding/json does.
func FuzzObject(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	for _, s := range []string{`"a`, `"a" `, `"\"`, `"é\n"`, `""`, `"`, `null`, "\"\u2028\"", `{"a":"x","a":1}`, `{"\ud800":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		o := AppendMembers(nil, text)
		for _, p := range o {
			if got, ok := Member(text, string(p.Key)); !ok || !bytes.Equal(got, o.Get(string(p.Key))) {
				t.Fatalf("%q: %q by Member, %q by Get", p.Key, got, o.Get(string(p.Key)))
			}
		}
		if got, ok := Member(text, "absent"); ok != (o.Get("absent") != nil) {
			t.Fatalf("absent: %q", got)
		}
		var want string
		wantOK := len(text) > 0 && text[0] == '"' && json.Unmarshal(text, &want) == nil
		if got, ok := Text(text); ok != wantOK || string(got) != want {
			t.Fatalf("Text is %q, %v, want %q, %v", got, ok, want, wantOK)
		}
	})
}

func BenchmarkObject(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var room [16]Pair
		if o := AppendMembers(room[:0], event); o.Get("metadata") == nil {
			b.Fatal("no metadata")
		}
	}
}
