package doctor

import (
	"slices"
	"testing"
)

// TestLacks: what a user may not do as a whole is named, by NATS's rules for subjects.
func TestLacks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allow, deny []string
		wants       string
		lacks       bool
	}{
		{nil, nil, "a.>", false},
		{[]string{">"}, nil, "a.>", false},
		{[]string{"a.>"}, nil, "a.>", false},
		{[]string{"a.>"}, nil, "a.b.>", false},
		{[]string{"a.>"}, nil, "a", true},
		{[]string{"a.*"}, nil, "a.>", true},
		{[]string{"a.*.>"}, nil, "a.b.>", false},
		{[]string{"a.b"}, nil, "a.>", true},
		{[]string{"a.b"}, nil, "a.b.c", true},
		{[]string{"a.b.c"}, nil, "a.b", true},
		{[]string{"a.*"}, nil, "a.b", false},
		{[]string{"b.>", "a.> workers"}, nil, "a.>", false},
		{nil, []string{"a.secret"}, "a.>", true},
		{nil, []string{"a.>"}, "a.b", true},
		{[]string{">"}, []string{"b.>"}, "a.>", false},
	} {
		missing := (&allowed{Allow: c.allow, Deny: c.deny}).lacks([]string{c.wants})
		if slices.Contains(missing, c.wants) != c.lacks {
			t.Errorf("allow %v, deny %v: %s is missing: %v, want %v", c.allow, c.deny, c.wants, !c.lacks, c.lacks)
		}
	}
	if (*allowed)(nil).lacks([]string{"a.>"}) != nil {
		t.Error("who has no limits lacks nothing")
	}
}
