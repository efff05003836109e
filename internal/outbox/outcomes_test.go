package outbox

import (
	"fmt"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/gate"
)

// What calls bring, for breakers.
var (
	isCreated   = flex.Outcome{Kind: flex.Created, FromTwilio: true}
	isRejected  = flex.Outcome{Kind: flex.Rejected, HTTPStatus: 400, FromTwilio: true}
	isUnsent    = flex.Outcome{Kind: flex.Rejected, Unreached: true, ErrorKind: "request", Message: "the lookup key cannot be added"}
	isForbidden = flex.Outcome{Kind: flex.Blocked, HTTPStatus: 403, TwilioCode: 20403, FromTwilio: true, Message: "m"}
	isRefusing  = flex.Outcome{Kind: flex.Refused, Unreached: true, Message: "connection refused"}
	isFailing   = flex.Outcome{HTTPStatus: 500, FromTwilio: true, Message: "m"}
	isForeign   = flex.Outcome{HTTPStatus: 404, Message: "<html>"}
	isRedirect  = flex.Outcome{HTTPStatus: 302, Message: "redirected"}
	isAstray    = flex.Outcome{Kind: flex.Blocked, UnknownPath: true, HTTPStatus: 404, TwilioCode: 20404, FromTwilio: true, Message: "m"}
	isTimeout   = flex.Outcome{ErrorKind: "timeout", Message: "timeout"}
	isLimited   = flex.Outcome{Kind: flex.Refused, Limited: true, HTTPStatus: 429, FromTwilio: true}
)

func of(tenant string, n int) gate.Call {
	return gate.Call{RequestID: fmt.Sprint(tenant, "-", n), Source: tenant,
		Request: []byte(`{"routing":{"properties":{"workspace_sid":"WS1"}}}`)}
}
