package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// secretTTL is how long a secret that was read from a file is used before the
// file is read again.
const secretTTL = time.Second

// Secret is a setting that is never shown. The zero value is an empty secret.
type Secret struct{ *secret }

type secret struct {
	file string // "" : the value never changes

	mu     sync.Mutex
	value  string
	readAt time.Time
}

// loadSecret takes the variable name, or the file that name_FILE points to.
func loadSecret(name string) (Secret, error) {
	value, set := os.LookupEnv(name)
	file, fromFile := os.LookupEnv(name + "_FILE")
	switch {
	case set && fromFile:
		return Secret{}, fmt.Errorf("give either %s or %s_FILE, not both", name, name)
	case set && value == "", fromFile && file == "":
		return Secret{}, fmt.Errorf("%s is set but empty", name)
	case set:
		return Secret{&secret{value: value}}, nil
	case !fromFile:
		return Secret{}, nil
	}
	s := &secret{file: file}
	if err := s.read(); err != nil {
		return Secret{}, fmt.Errorf("%s_FILE: %w", name, err)
	}
	if s.value == "" {
		return Secret{}, fmt.Errorf("%s_FILE=%s is an empty file", name, file)
	}
	return Secret{s}, nil
}

// Value is the secret itself, "" when there is none. A file is read again, so
// that a rotated secret is used without a restart; while it cannot be read, or
// is empty in the middle of a rotation, the secret before stays.
func (s Secret) Value() string {
	if s.secret == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != "" && time.Since(s.readAt) > secretTTL {
		_ = s.read() // the one before is the best there is
	}
	return s.value
}

func (s *secret) read() error {
	s.readAt = time.Now()
	text, err := os.ReadFile(s.file)
	if value := strings.TrimSpace(string(text)); value != "" {
		s.value = value
	}
	return err
}

// String hides the secret from every log, error and %v.
func (s Secret) String() string {
	switch {
	case s.secret == nil:
		return ""
	case s.file != "":
		return "(hidden, from " + s.file + ")"
	default:
		return "(hidden)"
	}
}

// GoString hides it from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides it from encoders.
//
//nolint:unparam // the interface has an error
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
