// Package access says who sends an HTTP request to the page or to the API: it makes an operator.Caller of a token, a
// cookie or the headers of a trusted proxy. Nothing else knows credentials. What a caller may do is not checked here:
// the Desk does that.
//
// Three credentials count, in this order:
//
//	X-Forwarded-User and X-Forwarded-Groups   from an address in TRUSTED_PROXIES alone: a login in front   (proxy.go)
//	Authorization: Bearer                     ADMIN_TOKEN acts, ADMIN_READ_TOKEN looks
//	a cookie                                  given by Login for one of the tokens and a name              (cookie.go)
//
// An address that sends wrong tokens is told to slow down (tries.go). A right token is never refused for what others sent.
package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/trouble"
)

// Config is what an Access knows.
type Config struct {
	// Token and ReadToken give ADMIN_TOKEN and ADMIN_READ_TOKEN as they are at this moment; "": there is none.
	Token, ReadToken func() string
	// Trusted are the addresses of TRUSTED_PROXIES.
	Trusted []netip.Prefix
	Log     *slog.Logger
}

// Access knows the credentials. It is safe for concurrent use.
type Access struct {
	// Counters count what was refused.
	Counters Counters

	config  Config
	origins *http.CrossOriginProtection
	tries   tries
	sample  trouble.Sample
}

// Counters count what was refused since the start.
type Counters struct {
	Wrong  atomic.Int64 // tokens that are none of ours
	Slowed atomic.Int64 // the same, of an address that had sent too many: they are not logged
}

// Why there is no caller. The texts are for whoever asked.
var (
	// ErrOff is returned while there is no ADMIN_TOKEN, whatever the request brings.
	ErrOff = errors.New("page and API are off: set ADMIN_TOKEN, or ADMIN_TOKEN_FILE, and start the worker anew")
	// ErrNone is returned for a request without a credential, and for one with a cookie that no longer counts.
	ErrNone = errors.New("a token is wanted: ADMIN_TOKEN to act, ADMIN_READ_TOKEN to look")
	// ErrWrong is returned for a token that is none of ours, and for headers of a trusted proxy that cannot be told
	// from those of its client.
	ErrWrong = errors.New("the credential is wrong")
	// ErrSlowDown is ErrWrong to an address that has sent too many wrong tokens. It may send another after RetryAfter; a right
	// one at once.
	ErrSlowDown = errors.New("the token is wrong, and too many wrong ones came from this address: wait some seconds")
	// ErrName is returned by Login for what is no name.
	ErrName = errors.New("a name is wanted, of at most 100 characters that can be printed: it is recorded with each act")
)

// New gives an Access.
func New(c Config) *Access {
	a := &Access{config: c, origins: http.NewCrossOriginProtection()}
	a.origins.SetDenyHandler(http.HandlerFunc(crossOrigin))
	return a
}

// Caller is who sends a request, and what they may do. The error is ErrOff, ErrNone, ErrWrong or ErrSlowDown; then
// the Caller may do nothing.
func (a *Access) Caller(r *http.Request) (operator.Caller, error) {
	if a.config.Token() == "" {
		return operator.Caller{}, ErrOff
	}
	if c, said, err := a.forwarded(r); said || err != nil {
		return c, err
	}
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return operator.Caller{}, ErrNone
		}
		return a.bearer(r, strings.TrimSpace(token))
	}
	return a.fromCookie(r)
}

// bearer is the caller who brings a token. A token has no person: the name says which token it is, and from where.
func (a *Access) bearer(r *http.Request, token string) (operator.Caller, error) {
	right, err := a.check(r, token)
	name := "ADMIN_READ_TOKEN"
	if right == operator.MayAct {
		name = "ADMIN_TOKEN"
	}
	if err != nil {
		return operator.Caller{}, err
	}
	return operator.Caller{Name: name + " from " + a.address(r).String(), Right: right}, nil
}

// check says what a token lets its bearer do. The error is ErrWrong or ErrSlowDown.
func (a *Access) check(r *http.Request, token string) (right operator.Right, err error) {
	if right = a.rightOf(token); right > operator.MayNothing {
		return right, nil
	}
	from := a.address(r)
	if a.tries.wrong(from, time.Now()) {
		a.Counters.Slowed.Add(1)
		return operator.MayNothing, ErrSlowDown
	}
	a.Counters.Wrong.Add(1)
	if through, leftOut := a.sample.Next(); through {
		a.config.Log.Warn("a wrong token was refused", "address", from.String(), "not_logged_before", leftOut)
	}
	return operator.MayNothing, ErrWrong
}

// rightOf takes the same time for every token of one length. Where both tokens are equal, which the check of the
// settings refuses and a rotation may bring about, it lets nobody act.
func (a *Access) rightOf(token string) operator.Right {
	acts, looks := same(token, a.config.Token()), same(token, a.config.ReadToken())
	switch {
	case looks:
		return operator.MayLook
	case acts:
		return operator.MayAct
	default:
		return operator.MayNothing
	}
}

// same compares a token with ours; "" is no token.
func same(token, ours string) bool {
	a, b := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(ours))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && ours != ""
}

// nameMost is how many characters a name may have.
const nameMost = 100

// named is a name as outbox_acts can keep it and a page can show it; ok is false for what is none.
func named(text string) (name string, ok bool) {
	name = strings.TrimSpace(text)
	printable := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	return name, name != "" && utf8.ValidString(name) && utf8.RuneCountInString(name) <= nameMost && printable
}

// policy lets a page load its own files and nothing else, send forms to itself alone, and stand in no frame.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Protect sets the headers of every answer of next, and refuses what changes something and comes from another
// origin. A browser says where a request comes from; a program that says nothing is let through, and needs its token.
func (a *Access) Protect(next http.Handler) http.Handler {
	next = a.origins.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// crossOrigin answers in the form of the API's errors, to a browser that somebody else's page sent.
func crossOrigin(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusForbidden)
	_, _ = w.Write([]byte(`{"type":"urn:flexworker:problem:cross-origin","title":"This request comes from another site","status":403,` +
		`"detail":"What changes something is taken from this worker's own pages, and from programs."}` + "\n"))
}
