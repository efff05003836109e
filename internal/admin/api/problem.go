package api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"flexworker/internal/admin/access"
	"flexworker/internal/database"
	"flexworker/internal/outbox/operator"
)

// A problem is an error as RFC 9457 has it.
type problem struct {
	Type   string `json:"type"` // urn:flexworker:problem: and one of kinds
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	Faults  []fault           `json:"faults,omitempty"`  // of invalid: all that is wrong
	State   string            `json:"state,omitempty"`   // of the request as it is now
	ETag    string            `json:"etag,omitempty"`    // of the request, or of the gate, as it is now
	Since   string            `json:"since,omitempty"`   // of stale: what has happened since
	Said    []string          `json:"said,omitempty"`    // what Flex and TaskRouter said
	Found   []string          `json:"found,omitempty"`   // interactions that TaskRouter shows
	Holders []database.Holder `json:"holders,omitempty"` // of locked: the sessions that hold what was asked for
}

// Error is the detail.
func (p *problem) Error() string { return p.Detail }

// A fault is one thing that is wrong with what was sent.
type fault struct {
	Path    string `json:"path"` // of the body or the query, such as filter.state; "" is the whole
	Problem string `json:"problem"`
}

const problemType = "urn:flexworker:problem:"

// kinds are the last words of the types, which stay as they are, with what does not differ within one.
var kinds = map[string]struct {
	status int
	title  string
}{
	"off":              {http.StatusForbidden, "Page and API are off"},
	"no-credential":    {http.StatusUnauthorized, "A token is wanted"},
	"wrong-credential": {http.StatusUnauthorized, "The token is wrong"},
	"slow-down":        {http.StatusTooManyRequests, "Too many wrong tokens came from this address"},
	"cross-origin":     {http.StatusForbidden, "This request comes from another site"}, // answered by package access
	"forbidden":        {http.StatusForbidden, "This credential does not permit it"},
	"no-route":         {http.StatusNotFound, "There is nothing under this path"},
	"method":           {http.StatusMethodNotAllowed, "This path does not know the method"},
	"media-type":       {http.StatusUnsupportedMediaType, "The body has to be JSON"},
	"too-large":        {http.StatusRequestEntityTooLarge, "The body is too large"},
	"invalid":          {http.StatusBadRequest, "What was sent is not valid"},
	"unknown-request":  {http.StatusNotFound, "No request has this id"},
	"tag-wanted":       {http.StatusPreconditionRequired, "If-Match is wanted"},
	"stale":            {http.StatusPreconditionFailed, "It is no longer as it was seen"},
	"not-allowed":      {http.StatusConflict, "The request is in a state that does not allow it"},
	"looked-up":        {http.StatusConflict, "Lookups may still find the interaction"},
	"exists":           {http.StatusConflict, "The interaction exists"},
	"unproved":         {http.StatusConflict, "That the interaction does not exist is not proved"},
	"not-shown":        {http.StatusConflict, "Flex does not show the interaction"},
	"not-its":          {http.StatusConflict, "The interaction is another request's"},
	"cannot-ask":       {http.StatusServiceUnavailable, "Flex cannot be asked"},
	"other-preview":    {http.StatusConflict, "This is not what the preview has shown"},
	"locked":           {http.StatusConflict, "Another session holds it locked"},
	"key-reused":       {http.StatusUnprocessableEntity, "The idempotency key belongs to another request"},
	"under-way":        {http.StatusConflict, "The act under this idempotency key is under way"},
	"interrupted":      {http.StatusConflict, "The act under this idempotency key was interrupted, and may have been done"},
	"outcome-unknown":  {http.StatusInternalServerError, "The act may have been done"},
	"busy":             {http.StatusServiceUnavailable, "Another act on many is under way"},
	"too-slow":         {http.StatusServiceUnavailable, "It takes too long to read this"},
	"database":         {http.StatusServiceUnavailable, "Postgres does not answer as it should"},
	"not-counted":      {http.StatusServiceUnavailable, "The backlog was not counted lately"},
	"internal":         {http.StatusInternalServerError, "The worker made a mistake"},
}

func newProblem(kind, detail string) *problem {
	k := kinds[kind]
	return &problem{Type: problemType + kind, Title: k.title, Status: k.status, Detail: detail}
}

// sentinels are the errors of others, by the kind of problem.
var sentinels = []struct {
	err  error
	kind string
	// more is said where the error says no more than the title of its kind does; of an invalid one, what is wrong.
	more string
}{
	{access.ErrOff, "off", ""},
	{access.ErrNone, "no-credential", ""},
	{access.ErrWrong, "wrong-credential", ""},
	{access.ErrSlowDown, "slow-down", ""},
	{operator.ErrForbidden, "forbidden", "ADMIN_TOKEN acts, and so does the group flexworker-act of a login in front; ADMIN_READ_TOKEN looks."},
	{operator.ErrNoReason, "invalid", "why"},
	{operator.ErrReason, "invalid", "why"},
	{operator.ErrCursor, "invalid", "cursor"},
	{operator.ErrUnknown, "unknown-request", "GET /requests lists those that there are, and GET /malformed what could not become one."},
	{operator.ErrOtherAttempt, "stale", ""},
	{operator.ErrStale, "stale", "Nothing was changed. Look at it again."},
	{operator.ErrNotUncertain, "not-allowed", ""},
	{operator.ErrNotSettled, "not-allowed", ""},
	{operator.ErrUnanswered, "not-allowed", ""},
	{operator.ErrKept, "not-allowed", ""},
	{operator.ErrShared, "not-allowed", ""},
	{operator.ErrClosed, "not-allowed", ""},
	{operator.ErrNotClosed, "not-allowed", ""},
	{operator.ErrLookedUp, "looked-up", "Wait until it waits for a person (for_person_since), or send unverified."},
	{operator.ErrExists, "exists", "Nothing was changed. A lookup adopts what stands in found, and so does resolve with created."},
	{operator.ErrUnproved, "unproved", "Nothing was changed. What TaskRouter says stands in said. With unverified you are believed."},
	{operator.ErrNotShown, "not-shown", "Nothing was changed. With unverified you are believed."},
	{operator.ErrNotIts, "not-its", "Nothing was changed."},
	{operator.ErrCannotAsk, "cannot-ask", "Nothing was changed. The settings of this worker do not let it ask."},
	{operator.ErrRefused, "not-allowed", ""},
	{operator.ErrOtherPreview, "other-preview", "Nothing was changed. act, unverified and filter have to be those of the preview that gave the token."},
	{operator.ErrBusy, "busy", "Nothing was changed. This worker does one at a time: send it again in some seconds."},
	{operator.ErrLeftOut, "locked", ""},
	{operator.ErrKeyReused, "key-reused", "Method, path, If-Match or body differ from what was asked under it. Take a new key for another act."},
	{operator.ErrUnderWay, "under-way", "Ask again in a second: a repeat gets its answer."},
	{operator.ErrInterrupted, "interrupted", ""},
}

// problemOf is an error as a problem, and whether it is one of those that callers may meet; the others are Postgres's,
// and their text is for the log alone.
func problemOf(err error) (p *problem, known bool) {
	if errors.As(err, &p) {
		return p, true
	}
	if errors.Is(err, operator.ErrTooSlow) { // what Postgres said of it is not for callers
		return newProblem("too-slow", "Ask for less, or later."), true
	}
	for _, s := range sentinels {
		if !errors.Is(err, s.err) {
			continue
		}
		said := strings.ReplaceAll(err.Error(), "outbox: ", "")
		switch {
		case s.kind == "invalid":
			p = newProblem(s.kind, "Nothing was changed.")
			p.Faults = []fault{{s.more, said}}
			return p, true
		case s.more != "" && err.Error() == s.err.Error():
			return newProblem(s.kind, s.more), true
		}
		return newProblem(s.kind, said), true
	}
	return newProblem("database", "What was asked could not be read. The worker's log says why."), false
}

// header sets what clients are told beside the body.
func (p *problem) header(h http.Header) {
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="flexworker"`)
	case http.StatusTooManyRequests:
		h.Set("Retry-After", strconv.Itoa(int(access.RetryAfter.Seconds())))
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "5")
	}
	if p.Type == problemType+"under-way" {
		h.Set("Retry-After", "1")
	}
}
