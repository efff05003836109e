package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	hundred := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"object", `{"a":[1,-0.5e3,true,false,null,"x\n\u00e9\ud83d\ude00"],"b":{},"c":[]}`, nil},
		{"scalar with white space", " \t\r\n0 \n", nil},
		{"big digits", `12345678901234567890123456789`, nil},
		{"number at the edge", `[1.7976931348623157e308,5e-324,0e5,-0]`, nil},
		{"hundred levels", hundred, nil},
		{"keys alike", `{"a":1,"A":2,"b":{"a":1,"c":1},"c":2}`, nil},
		{"escaped backslash before u0000", `"\\u0000"`, nil},

		{"empty", ``, []string{"not JSON at byte 0: unexpected end of JSON input"}},
		{"cut", `{"a":`, []string{"not JSON at byte 5: unexpected end of JSON input"}},
		{"two values", `{} {}`, []string{"not JSON at byte 4: invalid character '{' after top-level value"}},
		{"leading zero", `01`, []string{"not JSON at byte 2: invalid character '1' after top-level value"}},
		{"byte order mark", "\ufeff{}", []string{"not JSON at byte 1: invalid character 'ï' looking for beginning of value"}},
		{"not UTF-8", "{\"a\":\"\xff\"}", []string{"not UTF-8 at byte 6"}},
		{"zero", `{"channel":{"participants":[{"name":"a\u0000b"}]}}`,
			[]string{`channel.participants[0].name: holds \u0000, which Postgres cannot keep`}},
		{"zero in a key", `{"a":{"x\u0000":1}}`, []string{`a["x\x00"]: holds \u0000, which Postgres cannot keep`}},
		{"lone surrogates", `["\ud800","\udc00x","\ud83dA","\uD83D\uDE00"]`, []string{
			`[0]: holds half of a surrogate pair (\ud800)`,
			`[1]: holds half of a surrogate pair (\udc00)`,
			`[2]: holds half of a surrogate pair (\ud83d)`}},
		{"key twice", `{"r":{"a":1,"b":2,"a":3}}`, []string{"r.a: this key stands twice"}},
		{"key twice by escape", `{"a":1,"\u0061":2}`, []string{`["a"]: this key stands twice`}},
		{"empty key twice", `{"":1,"":2}`, []string{`[""]: this key stands twice`}},
		{"key twice of many", `{"k01":1,"k02":1,"k03":1,"k04":1,"k05":1,"k06":1,"k07":1,"k08":1,"k09":1,"k10":1,` +
			`"k11":1,"k12":1,"k13":1,"k14":1,"k15":1,"k16":1,"k17":1,"k18":1,"k19":1,"k18":1,"k01":2}`,
			[]string{"k18: this key stands twice", "k01: this key stands twice"}},
		{"numbers", `{"a":1e400,"b":[-1e309],"c":1e-400,"d":0e99999,"e":1e99999999999999999999}`, []string{
			"a: number out of range: 1e400", "b[0]: number out of range: -1e309", "c: number out of range: 1e-400",
			"d: number out of range: 0e99999", "e: number out of range: 1e99999999999999999999"}},
		{"long number", `[0.` + strings.Repeat("1", 1000) + `]`, []string{"[0]: number of 1002 characters"}},
		{"a level more", `{"a":` + hundred + `,"b":"\u0000"}`, []string{
			"a" + strings.Repeat("[0]", 66) + "[...: nested deeper than 100 levels",
			`b: holds \u0000, which Postgres cannot keep`}},
		{"strange keys", `{"a.b":{"c d":{"é":1e999}}}`, []string{`["a.b"]["c d"]["é"]: number out of range: 1e999`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, f := range Check([]byte(tt.text)) {
				got = append(got, f.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("Check(%.200s)\n got %q\nwant %q", tt.text, got, tt.want)
			}
		})
	}
}

func TestCheckBounded(t *testing.T) {
	t.Parallel()
	faults := Check([]byte("[" + strings.Repeat("1e999,", 1000) + "1]"))
	if len(faults) != 21 || faults[20].String() != "and 980 more" {
		t.Errorf("%d faults, the last %v", len(faults), faults[len(faults)-1])
	}
	deep := "[" + strings.Repeat("1e999,", 20) + strings.Repeat("[", 101) + strings.Repeat("]", 101) + "]"
	if faults := Check([]byte(deep)); len(faults) != 21 || !faults[20].Unreadable || faults[0].Unreadable {
		t.Errorf("what is too deep hides behind other faults: %v", faults)
	}
	long := Check([]byte(`{"` + strings.Repeat("k", 1<<20) + `":1e999}`))
	if len(long) != 1 || len(long[0].String()) > 200 {
		t.Errorf("a long key is not shortened: %d bytes", len(long[0].String()))
	}
}

// A text of nothing but brackets must cost neither a stack nor minutes.
func TestDeep(t *testing.T) {
	t.Parallel()
	const levels = 100_000
	closed := []byte(strings.Repeat("[", levels) + strings.Repeat("]", levels))
	if f := Check(closed); len(f) != 1 || !f[0].Unreadable || !strings.HasSuffix(f[0].Problem, "nested deeper than 100 levels") {
		t.Errorf("closed: %.300v", f)
	}
	if f := Check(closed[:levels]); len(f) != 1 || !f[0].Unreadable || !strings.HasPrefix(f[0].Problem, "not JSON") {
		t.Errorf("open: %.300v", f)
	}
	spaced := append([]byte(" "), closed...)
	if !Equal(closed, spaced) {
		t.Error("not equal to itself with a space before")
	}
	if value, ok := Member(append([]byte(`{"a":`), append(closed, '}')...), "a"); !ok || len(value) != len(closed) {
		t.Errorf("Member: %v, %d bytes", ok, len(value))
	}
}

func TestMember(t *testing.T) {
	t.Parallel()
	text := ` {"a" : {"b":[1,{"c":2}], "\u0064":1.0 ,"e":null},"a":7,"":"x" }`
	for _, tt := range []struct {
		path, want string
		ok         bool
	}{
		{"a.b", `[1,{"c":2}]`, true},
		{"a.d", `1.0`, true},
		{"a.e", `null`, true},
		{"", `"x"`, true},
		{"a.x", "", false},
		{"a.b.c", "", false},
		{"a.e.x", "", false},
		{"z", "", false},
	} {
		got, ok := Member([]byte(text), strings.Split(tt.path, ".")...)
		if string(got) != tt.want || ok != tt.ok {
			t.Errorf("%q: %q, %v", tt.path, got, ok)
		}
	}
	whole, ok := Member([]byte(text))
	if !ok || string(whole) != strings.TrimSpace(text) {
		t.Errorf("the whole: %q, %v", whole, ok)
	}
	if _, ok := Member(nil); ok {
		t.Error("a member of nothing")
	}
	value, _ := Member([]byte(text), "a", "d")
	if cap(value) != len(value) {
		t.Error("an append to the value would write into the text")
	}
}

func TestPrepend(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, path, want string
		err              error
	}{
		{`{"p":{"t":{"n":1.0,"a" : 2}}}`, "p.t", `{"p":{"t":{"k":"v","n":1.0,"a" : 2}}}`, nil},
		{`{"p":{"t":{ }},"n":1e2}`, "p.t", `{"p":{"t":{"k":"v" }},"n":1e2}`, nil},
		{`{"p":{"n":1}}`, "p.t", `{"p":{"t":{"k":"v"},"n":1}}`, nil},
		{`{"p":{}}`, "p.t", `{"p":{"t":{"k":"v"}}}`, nil},
		{`{"p":{"t": null }}`, "p.t", `{"p":{"t": {"k":"v"} }}`, nil},
		{` {"a":1} `, "", ` {"k":"v","a":1} `, nil},
		{`{"p":{"t":"{}"}}`, "p.t", "", ErrNotObject},
		{`{"p":[]}`, "p.t", "", ErrNotObject},
		{`{"x":{}}`, "p.t", "", ErrMissing},
		{`{"p":{"t":{"a":1,"k":2}}}`, "p.t", "", ErrKeyThere},
		{`{"p":{"t":{"\u006b":2}}}`, "p.t", "", ErrKeyThere},
		{``, "", "", ErrMissing},
		{`[]`, "", "", ErrNotObject},
		{`[]`, "p", "", ErrNotObject},
	} {
		var path []string
		if tt.path != "" {
			path = strings.Split(tt.path, ".")
		}
		text := []byte(tt.text)
		got, err := Prepend(text, "k", "v", path...)
		if string(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s at %q:\n got %s, %v\nwant %s, %v", tt.text, tt.path, got, err, tt.want, tt.err)
		}
		if string(text) != tt.text {
			t.Errorf("%s was changed to %s", tt.text, text)
		}
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	got, err := Replace([]byte(`{"a": {"b" : 1 },"c":2}`), []byte(`"x"`), "a", "b")
	if want := `{"a": {"b" : "x" },"c":2}`; string(got) != want || err != nil {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if _, err := Replace([]byte(`{}`), []byte(`1`), "a"); !errors.Is(err, ErrMissing) {
		t.Errorf("missing: %v", err)
	}
}

func TestEqual(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":[1,2]}`, ` { "b" : [ 1 , 2 ] , "a" : 1.0 } `, true},
		{`{"a":1}`, `{"a":1,"b":2}`, false},
		{`{"a":1}`, `{"b":1}`, false},
		{`[1,2]`, `[2,1]`, false},
		{`[1,2]`, `[1]`, false},
		{`[]`, `[null]`, false},
		{`[]`, `{}`, false},
		{`"a\u00e9\/"`, `"aé/"`, true},
		{`"\ud83d\ude00"`, `"😀"`, true},
		{`"\ud800"`, `"\ud801"`, false},
		{`"\ud800"`, `"\uD800"`, true},
		{`"1"`, `1`, false},
		{`true`, `false`, false},
		{`null`, `"null"`, false},
		{`1`, `1.0`, true}, {`1`, `1e0`, true}, {`10e-1`, `1`, true}, {`0.1e1`, `1`, true}, {`1.50`, `15e-1`, true},
		{`0`, `-0`, true}, {`0.000`, `0e999999999`, true}, {`1`, `-1`, false}, {`1`, `0`, false},
		{`12345678901234567890`, `12345678901234567891`, false},
		{`12345678901234567890`, `1.234567890123456789e19`, true},
		{`0.1`, `0.1000000000000000055511151231257827`, false},
		{`1e999999999`, `1e999999998`, false},
		{`10e999999999`, `1e1000000000`, true},
		{`10e99999999999999999999`, `1e100000000000000000000`, true},
		{`1e99999999999999999999`, `1e99999999999999999998`, false},
		{`1e000000000000000000000000001`, `10`, true},
		{`1e+5`, `100000`, true},
		{`{"a":1,"a":2}`, `{"a":2,"a":1}`, false},
		{`{"\u0061":1}`, `{"a":1}`, true},
		{``, ``, true}, {``, `1`, false}, {`"`, `""`, false},
	} {
		for _, swap := range []bool{false, true} {
			a, b := tt.a, tt.b
			if swap {
				a, b = b, a
			}
			if got := Equal([]byte(a), []byte(b)); got != tt.want {
				t.Errorf("Equal(%s, %s) = %v", a, b, got)
			}
		}
	}
}

func TestHugeExponentAllocatesNothing(t *testing.T) {
	a, b := []byte(`[1e999999999,2]`), []byte(`[1e999999999,3]`)
	if n := testing.AllocsPerRun(100, func() { Equal(a, b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var seeds = []string{
	``, `{}`, `[]`, `null`, `"\ud800"`, `"\u0000"`, `{"a":1,"a":2}`, `[1e400,-0.0e-1]`, `{"a":{"b":[1,{"c":"d"}]}}`,
	` { "a" : [ true , false ] } `, `"\ud83d\ude00\\\"\/\b"`, `01`, `1.`, `[1,]`, `{"a":1,}`, `{"a"1}`, "\"\x01\"", "\"\xff\"",
	strings.Repeat(`[`, 120) + strings.Repeat(`]`, 120), `{"attributes":null,"\u0061":{}}`, `nul`, `-`, `"\u12g4"`, `1e5e5`,
}

func FuzzCheck(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		faults := Check(text)
		broken, deep := false, false
		for _, fault := range faults {
			broken = broken || strings.HasPrefix(fault.Problem, "not ")
			deep = deep || strings.HasPrefix(fault.Problem, "nested")
		}
		valid := json.Valid(text) && utf8.Valid(text)
		if valid && broken {
			t.Fatalf("valid, but %v", faults)
		}
		if !valid && !broken && !deep {
			t.Fatalf("not valid, but %v", faults)
		}
		if len(faults) > maxFaults+1 {
			t.Fatalf("%d faults", len(faults))
		}
		if faults == nil { // then nothing in it is lost by decoding
			var v any
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatalf("fit, but %v", err)
			}
		}
	})
}

func FuzzEqual(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), []byte(s))
		f.Add([]byte(s), []byte(`[1.0,2e3]`))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if !Equal(a, a) {
			t.Fatal("not equal to itself")
		}
		if Equal(a, b) != Equal(b, a) {
			t.Fatal("not symmetric")
		}
		if len(Check(a)) > 0 {
			return
		}
		var wide, narrow bytes.Buffer
		if json.Indent(&wide, a, "\t", "  ") != nil || json.Compact(&narrow, a) != nil {
			t.Fatal("Check passed what encoding/json refuses")
		}
		if !Equal(a, wide.Bytes()) || !Equal(narrow.Bytes(), wide.Bytes()) || !Equal(a, reencode(t, a)) {
			t.Fatal("not equal to itself written in another way")
		}
		// The oracle: decoded with the digits kept, and encoded with sorted keys.
		if len(Check(b)) == 0 && bytes.Equal(reencode(t, a), reencode(t, b)) && !Equal(a, b) {
			t.Fatal("equal once decoded, but not to Equal")
		}
	})
}

// reencode decodes and encodes text, the digits of its numbers kept.
func reencode(t *testing.T, text []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzPrepend(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), "k", "v", "a")
	}
	f.Fuzz(func(t *testing.T, text []byte, key, value, step string) {
		before := bytes.Clone(text)
		got, err := Prepend(text, key, value, step)
		if !bytes.Equal(before, text) {
			t.Fatal("the text was changed")
		}
		if err != nil || len(Check(text)) > 0 || strings.Contains(key+value+step, "\x00") ||
			!utf8.ValidString(key) || !utf8.ValidString(value) || !utf8.ValidString(step) {
			return
		}
		for _, fault := range Check(got) {
			if !strings.HasPrefix(fault.Problem, "nested") {
				t.Fatalf("unfit: %v: %s", fault, got)
			}
		}
		if v, ok := Member(got, step, key); !ok || !Equal(v, appendQuoted(nil, value)) {
			t.Fatalf("the member is %q, %v in %s", v, ok, got)
		}
		old, _ := Member(text, step)
		var was, is map[string]json.RawMessage
		if err := json.Unmarshal(got, &is); err != nil {
			t.Fatal(err)
		}
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(is[step], &inner); err != nil {
			t.Fatal(err)
		}
		delete(inner, key)
		if len(old) == 0 || string(old) == "null" { // created
			old = []byte("{}")
		}
		if left, _ := json.Marshal(inner); !Equal(left, old) {
			t.Fatalf("%s became %s", old, left)
		}
		if err := json.Unmarshal(text, &was); err != nil {
			t.Fatal(err)
		}
		delete(was, step)
		delete(is, step)
		a, _ := json.Marshal(was)
		b, _ := json.Marshal(is)
		if !Equal(a, b) {
			t.Fatalf("beside the object %s became %s", a, b)
		}
	})
}

// FuzzUnchecked: what is not valid gives nonsense, but no panic and no endless loop.
func FuzzUnchecked(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		Member(text, "a", "b")
		_, _ = Replace(text, []byte("1"), "a")
		_, _ = Prepend(text, "k", "v", "a", "b")
		Equal(text, append([]byte(" "), text...))
	})
}

var event = []byte(`{"request_id":"crm-42-callback","channel":{"type":"sms","initiated_by":"api","participants":[{"address":"+15550100","proxy_address":"+15550199"}]},"routing":{"properties":{"workspace_sid":"WS00000000000000000000000000000002","workflow_sid":"WW00000000000000000000000000000003","task_channel_unique_name":"sms","attributes":{"customerName":"Ada Lovelace","customerId":12345678901234567890,"language":"en"}}},"priority":0,"expires_at":"2026-11-22T17:00:00Z","metadata":{"anything":"comes back in it"}}`)

func BenchmarkCheck(b *testing.B) {
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		if Check(event) != nil {
			b.Fatal("unfit")
		}
	}
}

func BenchmarkCheckDeep(b *testing.B) {
	text := []byte(strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000))
	b.ReportAllocs()
	for b.Loop() {
		Check(text)
	}
}

func BenchmarkEqual(b *testing.B) {
	other := append([]byte(" "), event...)
	b.ReportAllocs()
	for b.Loop() {
		if !Equal(event, other) {
			b.Fatal("not equal")
		}
	}
}

func BenchmarkPrepend(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Prepend(event, "interaction_request", "5f2c9a7e41d84b0c9e6d3a1b7c8f0e22", "routing", "properties", "attributes"); err != nil {
			b.Fatal(err)
		}
	}
}
