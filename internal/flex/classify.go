package flex

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter is the longest wait a header can ask for; above it a server is
// mistaken.
const maxRetryAfter = time.Hour

// facts are what a kind follows from. The zero value knows nothing.
type facts struct {
	unreached bool // not one byte of the request left
	locked    bool // there were no credentials to send
	status    int  // 0: no status line was read
	code      int  // Twilio's; 0: none
	twilio    bool // the answer shows that it is Twilio's
	sid       bool // the body has the sid of an interaction
	astray    bool // the answer says that there is no such path, or no such method there
}

// classify decides what a call means for the interaction it asked for: by HTTP
// status first, and within the 4xx by Twilio's code, since which code comes with
// which status is not documented. A 5xx may have been done whatever it says, and a
// redirect, or a 4xx that may be another's, whatever it says: who stands between us and
// Flex may have passed the request on before.
func classify(f facts) Kind {
	switch {
	case f.status == 0 && f.locked:
		return Blocked
	case f.status == 0 && f.unreached:
		return Refused
	case f.status == 0:
		return Uncertain
	case 200 <= f.status && f.status < 300 && f.sid:
		return Created
	case f.status == http.StatusRequestTimeout:
		return Uncertain
	case 400 <= f.status && f.status < 500 && f.twilio:
		return classify4xx(f)
	default: // 1xx, 2xx without a sid, 3xx, another's 4xx, 5xx, and what no standard knows
		return Uncertain
	}
}

// classify4xx is for Twilio's own.
func classify4xx(f facts) Kind {
	if f.status == http.StatusTooManyRequests {
		return Refused
	}
	if c, known := codes[f.code]; known && c.Kind != Rejected {
		return c.Kind
	}
	switch {
	case f.status == http.StatusUnauthorized, f.status == http.StatusForbidden, f.astray:
		return Blocked
	default:
		return Rejected
	}
}

// retryAfter reads the header of that name, seconds or an HTTP date, as a wait
// from now on. Nonsense and the past are 0; it is never more than an hour.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0
	}
	if strings.Trim(header, "0123456789") == "" {
		seconds, err := strconv.Atoi(header)
		if err != nil || seconds > int(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
