package results

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

const (
	// maxSource is the longest source, in bytes, that stands whole in the subject
	// of a result. The request stream takes sources of some 4,000 bytes: a subject
	// has to fit into the 4,096 of the line that publishes it (max_control_line of
	// the server), and ours has a prefix, an outcome and an inbox beside it. A line
	// that does not fit closes the connection for good, of each replica that tries.
	// 1,024 leaves room also where the operator's prefix is long.
	maxSource = 1024
	// sourceDigits is how many hexadecimal digits of its hash end a source that was cut.
	sourceDigits = 32
)

// Subject is where a result of this outcome goes to for this source, below
// prefix (RESULTS_SUBJECT); with the outcome * it is where all of them are read. A
// source of more than 1,024 bytes is cut: up to 991 bytes of it, a dot and the first
// 32 hexadecimal digits of the SHA-256 of the whole. So its first tokens can still
// be filtered by, and no two sources share a subject by accident. The row keeps the whole.
func Subject(prefix, outcome, source string) string {
	if len(source) > maxSource {
		sum := sha256.Sum256([]byte(source))
		begin := strings.ToValidUTF8(source[:maxSource-sourceDigits-1], "") // no half character at the cut
		source = strings.TrimRight(begin, ".") + "." + hex.EncodeToString(sum[:])[:sourceDigits]
	}
	return prefix + "." + outcome + "." + source
}
