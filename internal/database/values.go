package database

import (
	"encoding/json"
	"time"
)

// OrNull is s; null where s is "".
func OrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// Int32OrNull is n; null where n is 0.
func Int32OrNull(n int) *int32 {
	if n == 0 {
		return nil
	}
	v := int32(n)
	return &v
}

// IntOrNull is n; null where n is 0.
func IntOrNull(n int) *int {
	if n == 0 {
		return nil
	}
	return &n
}

// TimeOrNull is t; null where t is zero.
func TimeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// JSONOrNull is raw as text; null where raw is empty.
func JSONOrNull(raw json.RawMessage) *string { return OrNull(string(raw)) }
