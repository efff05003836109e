package request

// NotBeforeSQL is the not_before of a row of outbox, as a value in SQL. It is null where the request has none.
//
// It stands in the text of the request alone. It is null, too, where Postgres does not take it: Postgres takes no
// offset beyond 15:59, as RFC 3339 does, and an earlier version let such texts in.
//
// A text without such a member, and without letters as escapes, is not read as JSON: a text that cannot be read
// would stop an act on many.
const NotBeforeSQL = `CASE WHEN request::text !~ 'not_before|\\u00[567]' THEN NULL
		WHEN request ->> 'not_before' ~ '^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,30})?([Zz]|[+-](0\d|1[0-5]):[0-5]\d)$'
		THEN (request ->> 'not_before')::timestamptz END`

// WorkspaceSQL is the workspace of a row of outbox, as a value in SQL. It is null where the request names none.
const WorkspaceSQL = `request #>> '{routing,properties,workspace_sid}'`
