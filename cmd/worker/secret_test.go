package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestTokenCharacters: a character that does not belong to a token is named at the start, with its place and without the value.
func TestTokenCharacters(t *testing.T) {
	for value, want := range map[string]string{
		"0123456\r789":                  "has a carriage return (U+000D) as character 8",
		`"0123456789"`:                  "has a quotation mark (U+0022) as character 1",
		"'0123456789'":                  "has an apostrophe (U+0027) as character 1",
		"01234 56789":                   "has a blank (U+0020) as character 6",
		"01234\t56789":                  "has a tab (U+0009) as character 6",
		"01234\n56789":                  "has a line feed (U+000A) as character 6",
		"\ufeff0123456789":              "has a byte order mark (U+FEFF) as character 1",
		"012345\u200b6789":              "has a zero-width space (U+200B) as character 7",
		"012345\u00a06789":              "has a no-break space (U+00A0) as character 7",
		"0123456789\x07":                "cannot be printed (U+0007) as character 11",
		"012345678é":                    "is not of ASCII or cannot be printed (U+00E9) as character 10",
		"\xff\xfe0123456789":            "has a byte that is no UTF-8 (0xFF) as character 1",
		"012345\u20286789":              "(U+2028) as character 7",
		"01234567890123456789":          "",
		" 01234567890123456789 \r\n":    "",
		"\t01234567890123456789\n\n":    "",
		"01234567890123456789-_=+/.~$%": "",
	} {
		for _, name := range []string{"TWILIO_AUTH_TOKEN", "TWILIO_AUTH_TOKEN_FILE", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "ADMIN_READ_TOKEN", "ADMIN_READ_TOKEN_FILE", "TWILIO_ACCOUNT_SID", "TWILIO_API_SECRET", "TWILIO_API_SECRET_FILE", "TWILIO_API_KEY"} {
			env := required()
			if strings.HasPrefix(name, "TWILIO_API") {
				env = map[string]string{"DATABASE_URL": "postgres://worker@db/worker", "TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "s"}
			}
			if strings.HasPrefix(name, "ADMIN_READ") {
				env["ADMIN_TOKEN"] = "a-token-that-acts-000000"
			}
			delete(env, strings.TrimSuffix(name, "_FILE"))
			in := value
			switch {
			case strings.HasSuffix(name, "_FILE"):
				in = t.TempDir() + "/secret"
				if err := os.WriteFile(in, []byte(value), 0o600); err != nil {
					t.Fatal(err)
				}
			case strings.HasSuffix(name, "_SID") && want == "":
				in = strings.Replace(value, "0", "AC0", 1)
			case strings.HasSuffix(name, "_KEY") && want == "":
				in = strings.Replace(value, "0", "SK0", 1)
			}
			env[name] = in
			setEnv(t, env)
			cfg, err := loadConfig()
			if want == "" {
				user, password := cfg.credentials()
				if err != nil || strings.TrimSpace(user+password+cfg.AdminToken.Value()) != user+password+cfg.AdminToken.Value() {
					t.Errorf("%s=%q: %v", name, value, err)
				}
				continue
			}
			if err == nil || !strings.HasPrefix(err.Error(), name) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "0123") {
				t.Errorf("%s=%q: %v, want %s", name, value, err, want)
			}
		}
	}
}

// TestRotatedToWhatIsNoToken: the token before stays in use.
func TestRotatedToWhatIsNoToken(t *testing.T) {
	file := t.TempDir() + "/token"
	var rotated Secret
	for i, step := range []struct{ held, want string }{{"first", "first"}, {"\ufeffsecond", "first"}, {"sec ond", "first"}, {"third\r\n", "third"}} {
		if err := os.WriteFile(file, []byte(step.held), 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			setEnv(t, map[string]string{"TWILIO_AUTH_TOKEN_FILE": file})
		}
		s, err := loadSecret("TWILIO_AUTH_TOKEN")
		if bad := step.want != strings.TrimSpace(step.held); (err != nil) != bad {
			t.Errorf("at the start %q gives %v", step.held, err)
		}
		if i == 0 {
			rotated = s
		}
		rotated.mu.Lock()
		rotated.readAt = time.Time{} // as if the last look were long ago
		rotated.mu.Unlock()
		if got := rotated.Value(); got != step.want {
			t.Errorf("rotated to %q it is %q, want %q", step.held, got, step.want)
		}
	}
	if s := fmt.Sprint(rotated); s != "(hidden, from "+file+")" {
		t.Errorf("it is shown as %s", s)
	}
}
