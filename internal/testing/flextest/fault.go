package flextest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Fault is one way for a create call to go wrong, as text, so that it reads the
// same in a test, in a script and in JSON:
//
//	[create-then-]what[; option]...
//
// "create-then-" makes the interaction first; without it nothing is created,
// and no answer then carries a sid, so a sid never lies. What is one of the
// words below or a status. Options: html, foreign, code=N, retry-after=TEXT.
type Fault string

// The faults, in pairs: it failed, and it failed although it happened.
const (
	None Fault = "" // all goes well; a place in a script

	Reset           Fault = "reset" // RST in place of an answer
	CreateThenReset Fault = "create-then-reset"
	EOF             Fault = "eof" // the connection is closed in place of an answer
	CreateThenEOF   Fault = "create-then-eof"

	// Hang sends nothing until Release lets the call go on as if nothing had
	// been, Close ends it, or the client gives up: then nothing is created.
	Hang           Fault = "hang"
	CreateThenHang Fault = "create-then-hang"

	Drip               Fault = "drip" // headers at one byte every Settings.Drip, then the body
	CreateThenDrip     Fault = "create-then-drip"
	SlowBody           Fault = "slow-body" // a 2xx at once, its body one byte every Settings.Drip
	CreateThenSlowBody Fault = "create-then-slow-body"

	Cut                   Fault = "cut" // a 2xx with half of its body, then closed
	CreateThenCut         Fault = "create-then-cut"
	NotJSON               Fault = "not-json"
	CreateThenNotJSON     Fault = "create-then-not-json"
	HTML                  Fault = "html" // a 2xx with a page, as a proxy's
	CreateThenHTML        Fault = "create-then-html"
	Empty                 Fault = "empty" // 204
	CreateThenEmpty       Fault = "create-then-empty"
	NoSID                 Fault = "no-sid"
	CreateThenNoSID       Fault = "create-then-no-sid"
	BadSID                Fault = "bad-sid" // a sid of another form
	CreateThenBadSID      Fault = "create-then-bad-sid"
	Huge                  Fault = "huge" // 16 MiB of JSON; the sid comes first
	CreateThenHuge        Fault = "create-then-huge"
	Gzip                  Fault = "gzip" // compressed, asked for or not
	CreateThenGzip        Fault = "create-then-gzip"
	GzipBomb              Fault = "gzip-bomb" // 16 KiB that become 16 MiB
	CreateThenGzipBomb    Fault = "create-then-gzip-bomb"
	HugeHeaders           Fault = "huge-headers" // 1 MiB
	CreateThenHugeHeaders Fault = "create-then-huge-headers"
	Flood                 Fault = "flood" // 20,000 times 103, then the answer
	CreateThenFlood       Fault = "create-then-flood"

	// CreateThenClose answers well and closes the connection without a word;
	// CreateThenCloseNext does so when the next call on it arrives, unread.
	CreateThenClose     Fault = "create-then-close"
	CreateThenCloseNext Fault = "create-then-close-next"
	// CreateTwice is a proxy that repeats the call: two interactions, one
	// answer, which names the second.
	CreateTwice Fault = "create-twice"
)

// Status is an answer of that status, with Twilio's body and usual code for it;
// 301, 302, 303, 307 and 308 point to another path of this server.
func Status(status int) Fault { return Fault(strconv.Itoa(status)) }

// CreateThen is f with the interaction made first.
func CreateThen(f Fault) Fault { return createThen + f }

// Code is f with that code in its body; 0: without one.
func (f Fault) Code(code int) Fault { return f + Fault(fmt.Sprintf("; code=%d", code)) }

// HTML is f with a gateway's page for a body and without Twilio's headers.
func (f Fault) HTML() Fault { return f + "; html" }

// Foreign is f as a gateway or another program answers it, in JSON of its own: no header
// and no field shows that Twilio had a hand in it. CreateThen(Status(403).Foreign()) is a
// middlebox that passes the call on and answers by itself.
func (f Fault) Foreign() Fault { return f + "; foreign" }

// RetryAfter is f with that Retry-After header, whatever it says.
func (f Fault) RetryAfter(text string) Fault { return f + "; retry-after=" + Fault(text) }

const createThen = "create-then-"

// plan is a Fault, read.
type plan struct {
	what       string // "" when all goes well, "status" for a status
	created    bool
	status     int
	code       int
	retryAfter string
	html       bool
	foreign    bool
}

// words are the faults that are not a status; false: only after a creation.
var words = map[string]bool{
	"reset": true, "eof": true, "hang": true, "drip": true, "slow-body": true, "cut": true, "not-json": true,
	"html": true, "empty": true, "no-sid": true, "bad-sid": true, "huge": true, "gzip": true, "gzip-bomb": true,
	"huge-headers": true, "flood": true, "close": false, "close-next": false,
}

// alones are the words that may stand without a creation before them.
func alones() (list []string) {
	for word, alone := range words {
		if alone {
			list = append(list, word)
		}
	}
	slices.Sort(list)
	return list
}

// plan reads f.
func (f Fault) plan() (plan, error) {
	what, options, _ := strings.Cut(string(f), ";")
	what, created := strings.CutPrefix(strings.TrimSpace(what), createThen)
	p := plan{what: what, created: created}
	if f == CreateTwice {
		return plan{what: "twice", created: true}, nil
	}
	if status, err := strconv.Atoi(what); err == nil && status >= 300 && status <= 599 {
		p.what, p.status, p.code = "status", status, codes[status]
	} else if alone, ok := words[what]; f != None && (!ok || !alone && !created) {
		return p, fmt.Errorf("flextest: there is no fault %q; there are a status from 300 to 599, %s, each also after create-then-; "+
			"create-then-close, create-then-close-next and create-twice; options after it: ; html, ; foreign, ; code=N, ; retry-after=TEXT", f, strings.Join(alones(), ", "))
	}
	for option := range strings.SplitSeq(options, ";") {
		name, text, _ := strings.Cut(strings.TrimSpace(option), "=")
		var err error
		switch name {
		case "":
		case "html":
			p.html = true
		case "foreign":
			p.foreign = true
		case "code":
			p.code, err = strconv.Atoi(text)
		case "retry-after":
			p.retryAfter = text
		default:
			err = fmt.Errorf("unknown option")
		}
		if err != nil {
			return p, fmt.Errorf("flextest: fault %q: option %q: %w", f, option, err)
		}
	}
	return p, nil
}
