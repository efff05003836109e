package flextest

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Injection is the body of POST /_control/faults: a rule, or one of the others.
type Injection struct {
	Rule
	Next   []Fault `json:"next,omitempty"`   // as Server.Next
	Key    string  `json:"key,omitempty"`    // with Script, as Server.Script
	Script []Fault `json:"script,omitempty"` //
	Down   string  `json:"down,omitempty"`   // a duration: Server.Down, and Up after it
	Hole   string  `json:"hole,omitempty"`   // a duration: Server.BlackHole, and Up after it
}

// Access is the body of POST /_control/credentials. Nil credentials put back
// those of Config.
type Access struct {
	Credentials []Credential `json:"credentials"`
	Suspended   bool         `json:"suspended"`
}

// TaskAct is the body of POST /_control/tasks; each name is a WT or KD sid, a
// key or a test id.
type TaskAct struct {
	Complete   string `json:"complete,omitempty"`
	Forget     string `json:"forget,omitempty"`
	Copy       string `json:"copy,omitempty"`
	Overwrite  string `json:"overwrite,omitempty"`
	Attributes string `json:"attributes,omitempty"` // for Overwrite
	Age        string `json:"age,omitempty"`        // a duration
}

// UnmarshalText refuses a fault that does not exist.
func (f *Fault) UnmarshalText(text []byte) error {
	*f = Fault(text)
	_, err := f.plan()
	return err
}

// command carries out a POST below /_control/; known is false when there is
// none of that name. After an error nothing has changed.
func (s *Server) command(r *http.Request, body []byte) (known bool, err error) {
	if r.Method != http.MethodPost {
		return false, nil
	}
	switch strings.TrimPrefix(r.URL.Path, "/_control/") {
	case "faults":
		return true, s.commandFault(body)
	case "settings":
		set := s.Settings()
		if err = decode(body, &set); err == nil {
			err = set.check()
		}
		if err == nil {
			s.Set(set)
		}
		return true, err
	case "taskrouter":
		set := s.TaskRouter()
		if err = decode(body, &set); err == nil {
			s.SetTaskRouter(set)
		}
		return true, err
	case "credentials":
		return true, s.commandAccess(body)
	case "tasks":
		return true, s.commandTask(body)
	}
	return false, nil
}

func (s *Server) commandFault(body []byte) error {
	var in Injection
	if err := decode(body, &in); err != nil {
		return err
	}
	switch {
	case in.Down != "":
		return s.outage(in.Down, func() error { s.Down(); return nil })
	case in.Hole != "":
		return s.outage(in.Hole, s.BlackHole)
	case in.Key != "":
		s.Script(in.Key, in.Script...)
	case len(in.Next) > 0:
		s.Next(in.Next...)
	case in.Fault != "":
		s.Inject(in.Rule)
	default:
		return fmt.Errorf("one of fault, next, key, down and hole is needed")
	}
	return nil
}

// outage begins an outage now and ends it after the duration. The answer to the
// command still arrives.
func (s *Server) outage(text string, begin func() error) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		_ = s.Up() // half an outage is none
		return err
	}
	time.AfterFunc(d, func() {
		if err := s.Up(); err != nil {
			s.ledger.violate("the end of an outage: " + err.Error())
		}
	})
	return nil
}

func (s *Server) commandAccess(body []byte) error {
	var in Access
	if err := decode(body, &in); err != nil {
		return err
	}
	if in.Credentials == nil {
		in.Credentials = s.cfg.Credentials
	}
	s.SetCredentials(in.Credentials...)
	if in.Suspended {
		s.Suspend()
	}
	return nil
}

func (s *Server) commandTask(body []byte) error {
	var in TaskAct
	if err := decode(body, &in); err != nil {
		return err
	}
	age, err := time.ParseDuration(cmp.Or(in.Age, "0s"))
	if err != nil {
		return err
	}
	found := 1
	switch {
	case in.Complete != "":
		found = s.Complete(in.Complete)
	case in.Forget != "":
		found = s.Forget(in.Forget)
	case in.Copy != "":
		found = s.Copy(in.Copy)
	case in.Overwrite != "":
		found = s.Overwrite(in.Overwrite, in.Attributes)
	case age == 0:
		return fmt.Errorf("one of complete, forget, copy, overwrite and age is needed")
	}
	s.Age(age)
	if found == 0 {
		return fmt.Errorf("no such task")
	}
	return nil
}
