package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// secretTTL is how long a secret that was read from a file is used before the
// file is read again.
const secretTTL = time.Second

// Secret is a setting that is never shown. The zero value is an empty secret.
type Secret struct{ *secret }

type secret struct {
	file  string // "" : the value never changes
	token bool   // it goes into a header as it is; see tokenProblem

	mu      sync.Mutex
	value   string
	readAt  time.Time
	problem string // of what the file held last
}

// tokens are the secrets that go into a header as they are.
var tokens = map[string]bool{"TWILIO_AUTH_TOKEN": true, "TWILIO_API_SECRET": true, "ADMIN_TOKEN": true, "ADMIN_READ_TOKEN": true}

// tokenProblem names the first character of a token or sid that does not belong to one,
// and where it stands, never the value; "" when there is none. An editor, a shell, a
// template or a secret store has put it there, and all that would be seen of it is a 401.
func tokenProblem(value string) string {
	n := 0
	for i, r := range value {
		n++
		if r > ' ' && r <= '~' && r != '"' && r != '\'' && r != '`' {
			continue
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(value[i:]); size == 1 {
				return fmt.Sprintf("has a byte that is no UTF-8 (0x%02X) as character %d: write the value alone, as plain text", value[i], n)
			}
		}
		name := map[rune]string{
			' ': "a blank", '\t': "a tab", '\n': "a line feed", '\r': "a carriage return", '"': "a quotation mark", '\'': "an apostrophe", '`': "a backquote",
			0xFEFF: "a byte order mark", 0xA0: "a no-break space", 0x200B: "a zero-width space", 0: "a NUL",
		}[r]
		if name == "" {
			name = "a character that is not of ASCII or cannot be printed"
		}
		return fmt.Sprintf("has %s (U+%04X) as character %d: write the value alone, without quotes, blanks or anything before and behind it", name, r, n)
	}
	return ""
}

// loadSecret takes the variable name, or the file that name_FILE points to.
func loadSecret(name string) (Secret, error) {
	value, set := os.LookupEnv(name)
	value = strings.TrimSpace(value) // as that of a file
	file, fromFile := os.LookupEnv(name + "_FILE")
	switch {
	case set && fromFile:
		return Secret{}, fmt.Errorf("give either %s or %s_FILE, not both", name, name)
	case set && value == "", fromFile && file == "":
		return Secret{}, fmt.Errorf("%s is set but empty", name)
	case set && tokens[name] && tokenProblem(value) != "":
		return Secret{}, fmt.Errorf("%s %s", name, tokenProblem(value))
	case set:
		return Secret{&secret{value: value}}, nil
	case !fromFile:
		return Secret{}, nil
	}
	s := &secret{file: file, token: tokens[name]}
	if err := s.read(); errors.Is(err, fs.ErrPermission) {
		return Secret{}, fmt.Errorf("%s_FILE: %w: user %d, as which this runs, must be able to read the file and to enter its directories", name, err, os.Getuid())
	} else if err != nil {
		return Secret{}, fmt.Errorf("%s_FILE %s", name, noFile(err))
	}
	if s.problem != "" {
		return Secret{}, fmt.Errorf("%s_FILE=%s %s", name, file, s.problem)
	}
	if s.value == "" {
		return Secret{}, fmt.Errorf("%s_FILE=%s is an empty file", name, file)
	}
	return Secret{s}, nil
}

// noFile says why a file cannot be read, without the path: who writes a secret where the path of its
// file belongs must not find the secret in the log. A path that leads to something which this user
// may not read is a path, and is shown.
func noFile(err error) string {
	if wrong := (*fs.PathError)(nil); errors.As(err, &wrong) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf("is not the path of a file that can be read: %v (its value is not shown: it may be what belongs in the file)", wrong.Err)
	}
	return fmt.Sprintf("cannot be read: %v", err)
}

// shownPath is the path of a file, or "(hidden)" where noFile would not show it.
func shownPath(path string) string {
	if f, err := os.Open(path); err == nil {
		_ = f.Close() // it was only looked at
	} else if path != "" && !errors.Is(err, fs.ErrPermission) {
		return "(hidden)"
	}
	return path
}

// Value is the secret itself, "" when there is none. A file is read again, so
// that a rotated secret is used without a restart; while it cannot be read, is
// empty in the middle of a rotation, or holds what cannot be a token, the secret before
// stays.
func (s Secret) Value() string {
	if s.secret == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != "" && time.Since(s.readAt) > secretTTL {
		before := s.problem
		_ = s.read() // the one before is the best there is
		if s.problem != "" && s.problem != before {
			slog.Warn("a secret was rotated to what cannot be one: the one before stays in use", "file", s.file, "it", s.problem)
		}
	}
	return s.value
}

func (s *secret) read() error {
	s.readAt = time.Now()
	text, err := os.ReadFile(s.file)
	s.problem = ""
	value := strings.TrimSpace(string(text))
	if s.token {
		s.problem = tokenProblem(value)
	}
	if value != "" && s.problem == "" {
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
