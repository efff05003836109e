package flex

import (
	"regexp"
	"strings"
	"testing"
)

// FuzzIsSID: the form is the regular expression that Twilio documents.
func FuzzIsSID(f *testing.F) {
	form := regexp.MustCompile(`^KD[0-9a-fA-F]{32}$`)
	for _, s := range []string{"", "KD", kd, strings.ToUpper(kd), strings.ToLower(kd), wt, kd + "\n", " " + kd, kd[1:], kd + "0",
		kd[:33] + "g", kd[:32] + "é", "KD" + strings.Repeat("/", 32), "KD" + strings.Repeat("`", 32)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := form.MatchString(s)
		if IsSID(s, "KD") != want || IsSID([]byte(s), "KD") != want || interactionSID.MatchString(s) != want {
			t.Errorf("%q: not %v", s, want)
		}
	})
}
