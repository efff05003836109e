package access

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"flexworker/internal/outbox/operator"
)

const (
	// cookieName is not __Host-..., which a browser refuses over plain http, also on loopback.
	cookieName = "flexworker"
	// cookieLasts is how long a login counts.
	cookieLasts = 12 * time.Hour
)

// A login is what a cookie says. Whoever has the token can check it, so every replica does.
type login struct {
	Name  string         `json:"name"`
	Right operator.Right `json:"right"`
	Until int64          `json:"until"` // Unix seconds
}

// Login gives the browser a cookie for a token and a name. The cookie counts for 12 hours, at every replica, until
// the token is rotated. A browser keeps it over https, and over http from a loopback address. The error is ErrOff,
// ErrName, ErrWrong or ErrSlowDown; then no cookie is set.
func (a *Access) Login(w http.ResponseWriter, r *http.Request, token, name string) error {
	if a.config.Token() == "" {
		return ErrOff
	}
	name, ok := named(name)
	if !ok {
		return ErrName
	}
	right, err := a.check(r, strings.TrimSpace(token))
	if err != nil {
		return err
	}
	l := login{name, right, time.Now().Add(cookieLasts).Unix()}
	a.setCookie(w, r, l.seal(a.tokenOf(right)), int(cookieLasts.Seconds()))
	return nil
}

// Logout has the browser forget its cookie. A copy of the cookie counts until its time is over or the token is
// rotated.
func (a *Access) Logout(w http.ResponseWriter, r *http.Request) { a.setCookie(w, r, "", -1) }

func (a *Access) setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	//nolint:gosec // it is Secure, but on loopback
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true,
		SameSite: http.SameSiteStrictMode, Secure: !OnLoopback(r)})
}

// OnLoopback says whether the browser reached this worker under a name that stays on its machine. Who sends another
// name than the one that they used harms nobody but themselves.
func OnLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && address.IsLoopback()
}

// fromCookie is the caller who brings a cookie. One that does not count is as good as none: it was given before a
// token was rotated, or has run out.
func (a *Access) fromCookie(r *http.Request) (operator.Caller, error) {
	for _, c := range r.CookiesNamed(cookieName) {
		for _, right := range []operator.Right{operator.MayAct, operator.MayLook} {
			l, ok := open(c.Value, a.tokenOf(right))
			if ok && l.Right == right && time.Now().Unix() < l.Until {
				return operator.Caller{Name: l.Name, Right: right}, nil
			}
		}
	}
	return operator.Caller{}, ErrNone
}

// tokenOf is the token that gives a right; "": there is none.
func (a *Access) tokenOf(right operator.Right) string {
	if right == operator.MayAct {
		return a.config.Token()
	}
	return a.config.ReadToken()
}

// seal is the login as the value of a cookie: its JSON, and the HMAC of that, both as base64.
func (l login) seal(token string) string {
	text, _ := json.Marshal(l) // a struct of text and numbers
	return encode(text) + "." + encode(mac(text, token))
}

// open reads what seal has written under the same token. Without a token nothing can be sealed.
func open(value, token string) (l login, ok bool) {
	text, sum, _ := strings.Cut(value, ".")
	said, err := decode(text)
	if err != nil || token == "" {
		return l, false
	}
	given, err := decode(sum)
	if err != nil || !hmac.Equal(given, mac(said, token)) {
		return l, false
	}
	return l, json.Unmarshal(said, &l) == nil
}

// mac is the HMAC of text under a key that is derived from a token: a cookie does not tell the token.
func mac(text []byte, token string) []byte {
	key, err := hkdf.Key(sha256.New, []byte(token), nil, "flexworker cookie 1", sha256.Size)
	if err != nil {
		panic(err) // only for a key that is longer than 255 hashes
	}
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return h.Sum(nil)
}

func encode(text []byte) string          { return base64.RawURLEncoding.EncodeToString(text) }
func decode(text string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(text) }
