package flextest

import (
	"encoding/json"
	"net/http"
	"testing"
)

// TestConfigurationNamesTheAccount: the account that lets the client in is the one that the configuration is of, unless a test
// says another.
func TestConfigurationNamesTheAccount(t *testing.T) {
	t.Parallel()
	const demo = "AC-of-the-demo"
	s := NewWith(t, Config{Credentials: []Credential{{demo, AuthToken}, {APIKey, APISecret}}})
	account := func() (sid string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/v1/Configuration", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(demo, AuthToken)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		var body struct {
			AccountSID string `json:"account_sid"`
		}
		if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
			t.Fatal(err)
		}
		return body.AccountSID
	}
	if got := account(); got != demo {
		t.Errorf("the configuration is of %q, want %q", got, demo)
	}
	s.SetSetup(Setup{Account: AccountSID})
	if got := account(); got != AccountSID {
		t.Errorf("the configuration is of %q, want %q", got, AccountSID)
	}
}
