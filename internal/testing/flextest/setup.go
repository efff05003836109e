package flextest

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Setup is how Flex is set up in the account. The zero value: as a new account that has finished its onboarding, with
// WorkspaceSID and WorkflowSID.
type Setup struct {
	Status    string   // of the onboarding; "" is ok
	Account   string   // "" is the first account of Config.Credentials, or AccountSID
	Workspace string   // "" is WorkspaceSID; - is none
	Workflows []string // of every workspace; nil is WorkflowSID
	Refused   bool     // reads of the configuration and of workflows get 403
}

// SetSetup replaces how Flex is set up.
func (s *Server) SetSetup(set Setup) { s.setup.Store(&set) }

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// configuration answers GET /v1/Configuration: account_sid, status and taskrouter_workspace_sid are documented. What else
// Twilio shows there no client of ours reads.
func (s *Server) configuration(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		s.ledger.violate("Flex: " + r.Method + " " + r.URL.Path)
		writeError(w, &refusal{http.StatusMethodNotAllowed, 20004, "Method not allowed"})
		return
	}
	if refused := s.admit(w, r); refused != nil {
		writeError(w, refused)
		return
	}
	set := s.setup.Load()
	if set.Refused {
		writeError(w, &refusal{http.StatusForbidden, 20403, "Forbidden"})
		return
	}
	body := map[string]any{"account_sid": orElse(set.Account, s.account()), "status": orElse(set.Status, "ok"), "taskrouter_workspace_sid": orElse(set.Workspace, WorkspaceSID)}
	if set.Workspace == "-" {
		body["taskrouter_workspace_sid"] = nil
	}
	s.writeSetup(w, body)
}

// account is the one whose token lets a client in.
func (s *Server) account() string {
	for _, c := range s.cfg.Credentials {
		if strings.HasPrefix(c.User, "AC") {
			return c.User
		}
	}
	return AccountSID
}

// workflows answers GET .../Workflows, on one page.
func (s *Server) workflows(w http.ResponseWriter) {
	set := s.setup.Load()
	if set.Refused {
		writeError(w, &refusal{http.StatusForbidden, 20403, "Forbidden"})
		return
	}
	sids := set.Workflows
	if sids == nil {
		sids = []string{WorkflowSID}
	}
	list := make([]map[string]string, len(sids))
	for i, sid := range sids {
		list[i] = map[string]string{"sid": sid, "friendly_name": "Assign to Anyone"}
	}
	s.writeSetup(w, map[string]any{"workflows": list, "meta": map[string]any{"next_page_url": nil, "key": "workflows"}})
}

func (s *Server) writeSetup(w http.ResponseWriter, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // a mistake here
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	_, _ = w.Write(text) // who hung up needs no answer
}
