package request

import "strings"

// Text makes s fit for a text column, which holds neither NUL nor bad UTF-8.
func Text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
