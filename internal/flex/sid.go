package flex

// The sids whose form matters here, by their prefixes.
const (
	interactionSID = sidForm("KD")
	taskSID        = sidForm("WT")
	workspaceForm  = sidForm("WS")
)

// sidForm is the form of one kind of sid, named by its prefix.
type sidForm string

// MatchString tells whether s is a sid of that kind.
func (f sidForm) MatchString(s string) bool { return IsSID(s, string(f)) }

// IsSID tells whether s has the form of a sid: the prefix and 32 hexadecimal
// digits.
func IsSID[T string | []byte](s T, prefix string) bool {
	if len(s) != len(prefix)+32 || string(s[:len(prefix)]) != prefix {
		return false
	}
	for i := len(prefix); i < len(s); i++ {
		switch c := s[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return false
		}
	}
	return true
}
