package operator

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
)

// A preview is what an act on many was shown to take: nothing else is taken by the act that carries its token, however
// much time passes between.
type preview struct {
	Newest   int64  `json:"newest"`   // the highest id of those shown; 0: there was none
	Snapshot string `json:"snapshot"` // Postgres's, in which it was read: a row that has changed since was not shown so
	At       int64  `json:"at"`       // Unix microseconds by Postgres's clock: ages are those of that moment
	Of       string `json:"of"`       // the digest of all that it is of
}

// token is the preview as text that means nothing to others.
func (p preview) token() string {
	text, _ := json.Marshal(p) // of numbers, text and a time
	return base64.RawURLEncoding.EncodeToString(text)
}

// previewOf is the preview of a change with this filter.
func previewOf(c Change, attempt *int, f Filter, newest int64, snapshot string, at int64) preview {
	f.Preview = ""
	// The set tells a retry from one that is unverified.
	text, _ := json.Marshal([]any{c.Name, c.set, attempt, f, newest, snapshot, at}) // of numbers and text
	sum := sha256.Sum256(text)
	return preview{Newest: newest, Snapshot: snapshot, At: at, Of: hex.EncodeToString(sum[:])}
}

// shown gives the preview that the filter carries; nil: it carries none. ErrOtherPreview: it is that of another change
// or filter, or no token at all.
func (f Filter) shown(c Change, attempt *int) (*preview, error) {
	if f.Preview == "" {
		return nil, nil
	}
	var p preview
	text, err := base64.RawURLEncoding.DecodeString(f.Preview)
	if err != nil || json.Unmarshal(text, &p) != nil || p != previewOf(c, attempt, f, p.Newest, p.Snapshot, p.At) {
		return nil, ErrOtherPreview
	}
	return &p, nil
}
