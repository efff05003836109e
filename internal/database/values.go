package database

import (
	"encoding/json"
	"strings"
	"time"
)

func OrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func Int32OrNull(n int) *int32 {
	if n == 0 {
		return nil
	}
	v := int32(n)
	return &v
}

func IntOrNull(n int) *int {
	if n == 0 {
		return nil
	}
	return &n
}

func TimeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func JsonOrNull(raw json.RawMessage) *string { return OrNull(string(raw)) }

// text makes s fit for a text column, which holds neither NUL nor bad UTF-8.
func Text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
