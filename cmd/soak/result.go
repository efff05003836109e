package main

import (
	"regexp"
	"strconv"
	"strings"
)

// result is a message of the result stream.
type result struct {
	RequestID      string `json:"request_id"`
	Outcome        string `json:"outcome"`
	InteractionSID string `json:"interaction_sid"`
	Revision       int32  `json:"revision"`
	Sequence       uint64 `json:"sequence"`
	Metadata       struct {
		Variant *int8 `json:"variant"`
	} `json:"metadata"`
	Error struct {
		HTTPStatus int    `json:"http_status"`
		Message    string `json:"message"`
	} `json:"error"`
}

// detail is what differs from one request to the next: what a server said, and sids.
var detail = regexp.MustCompile(`( could not be (?:asked|read))[^:;]*:.*|\b[A-Z]{2}[0-9a-f]{32}\b`)

// reason is why a person was asked, without what differs from one request to the next.
func (r result) reason() string {
	_, why, found := strings.Cut(r.Error.Message, "a person has to decide whether it exists: ")
	if !found {
		why = r.Error.Message
	}
	why, _, _ = strings.Cut(why, "; wait for the final result") // what the sender is told to do
	why = detail.ReplaceAllString(why, "$1")
	if r.Error.HTTPStatus/100 == 2 {
		return "after a 2xx: " + why
	}
	return why
}

// repeated reads the sequence of the message that asked again out of a message id.
func repeated(messageID string) (uint64, bool) {
	_, tail, ok := strings.Cut(messageID, "-again-")
	tail, _, _ = strings.Cut(tail, "-") // the message's time follows
	n, err := strconv.ParseUint(tail, 10, 64)
	return n, ok && err == nil
}
