package flextest

import "testing"

// New starts a server for the length of a test, whose first create calls meet
// these faults, one each. The test fails when at its end there are violations.
func New(t testing.TB, list ...Fault) *Server {
	t.Helper()
	s := NewWith(t, Config{})
	s.Next(list...)
	return s
}

// NewWith is New for a server that differs from the usual one.
func NewWith(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		for _, v := range s.Violations() {
			t.Errorf("flextest: violation: %s", v)
		}
	})
	return s
}
