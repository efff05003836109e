package flextest

import (
	"encoding/base64"
	"net/http"
)

// Credential is one pair that Basic authentication accepts.
type Credential struct {
	User   string `json:"user"` // account sid or API key
	Secret string `json:"secret"`
}

// access is who may come in.
type access struct {
	allowed   map[string]bool // by the Authorization header's text
	suspended bool
}

// SetCredentials replaces the pairs that are accepted and lifts a suspension;
// with none, everybody gets 401.
func (s *Server) SetCredentials(list ...Credential) {
	allowed := map[string]bool{}
	for _, c := range list {
		allowed["Basic "+base64.StdEncoding.EncodeToString([]byte(c.User+":"+c.Secret))] = true
	}
	s.access.Store(&access{allowed: allowed})
}

// Suspend suspends the account: whoever is accepted gets 403, code 20005.
func (s *Server) Suspend() {
	s.access.Store(&access{allowed: s.access.Load().allowed, suspended: true})
}

// admit checks the credentials of a call.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) *refusal {
	access := s.access.Load()
	switch {
	case !access.allowed[r.Header.Get("Authorization")]:
		w.Header().Set("WWW-Authenticate", `Basic realm="Twilio API"`)
		return &refusal{http.StatusUnauthorized, 20003, "Authenticate"}
	case access.suspended:
		return &refusal{http.StatusForbidden, 20005, "Account is not active"}
	}
	return nil
}
