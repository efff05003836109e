package flextest

import (
	"cmp"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// Rule is a fault for some of the create calls, until it is cleared or used up.
type Rule struct {
	Fault Fault `json:"fault"`
	// Share of the matching calls that meet it; 0 is taken for 1, all of them.
	Share float64 `json:"share,omitempty"`
	// Times it is met at most; 0: no end.
	Times int `json:"times,omitempty"`
	// Attribute, when set, must be a task attribute of the call, with the text
	// Value unless that is empty. Channel, when set, must be the channel's type.
	Attribute string `json:"attribute,omitempty"`
	Value     string `json:"value,omitempty"`
	Channel   string `json:"channel,omitempty"`
}

// rule is a Rule in force.
type rule struct {
	Rule
	plan plan
	met  int
}

// faults decides which call meets which fault. The first that has one wins: the
// call's own script, then what was said of the next calls, then the rules in
// their order.
type faults struct {
	armed atomic.Bool // false: nothing to decide

	mu      sync.Mutex
	rand    *rand.Rand
	scripts map[string][]plan
	next    []plan
	rules   []*rule
}

// choose takes the fault that a call meets.
func (f *faults) choose(q *wish) plan {
	if !f.armed.Load() {
		return plan{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range [...]string{q.key, q.testID} {
		if list := f.scripts[key]; key != "" && len(list) > 0 {
			f.scripts[key] = list[1:]
			return list[0]
		}
	}
	if len(f.next) > 0 {
		p := f.next[0]
		f.next = f.next[1:]
		return p
	}
	for _, r := range f.rules {
		if r.Times > 0 && r.met >= r.Times || !r.matches(q) {
			continue
		}
		if r.Share > 0 && r.Share < 1 && f.rand.Float64() >= r.Share {
			continue
		}
		r.met++
		return r.plan
	}
	return plan{}
}

// matches says whether the rule is about this call.
func (r *rule) matches(q *wish) bool {
	if r.Channel != "" && r.Channel != q.kind {
		return false
	}
	if r.Attribute == "" {
		return true
	}
	list, _ := object(cmp.Or(q.attributes, "{}"))
	if r.Value == "" {
		_, ok := find(list, r.Attribute)
		return ok
	}
	text, _ := findText(list, r.Attribute)
	return text == r.Value
}

// must reads faults; a word that does not exist is a mistake in the test.
func must(list []Fault) []plan {
	plans := make([]plan, len(list))
	for i, f := range list {
		p, err := f.plan()
		if err != nil {
			panic(err)
		}
		plans[i] = p
	}
	return plans
}

// Next gives the next create calls these faults, one each.
func (s *Server) Next(list ...Fault) {
	plans := must(list)
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.next = append(s.faults.next, plans...)
	s.faults.armed.Store(true)
}

// Script gives the n-th create call that carries key, as Config.KeyAttribute or
// Config.TestAttribute, the n-th fault; later ones go well. It replaces what
// was left of the key's script.
func (s *Server) Script(key string, list ...Fault) {
	plans := must(list)
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.scripts[key] = plans
	s.faults.armed.Store(true)
}

// Inject puts a rule into force, after those that are.
func (s *Server) Inject(r Rule) {
	plans := must([]Fault{r.Fault})
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.rules = append(s.faults.rules, &rule{Rule: r, plan: plans[0]})
	s.faults.armed.Store(true)
}

// Clear ends all rules, scripts and what was said of the next calls. Calls that
// hang go on hanging; Release is for them.
func (s *Server) Clear() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.next, s.faults.rules = nil, nil
	clear(s.faults.scripts)
	s.faults.armed.Store(false)
}
