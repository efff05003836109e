package operator

import (
	"context"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/flex"
	"flexworker/internal/rawjson"
)

// What a text was taken for that somebody looks for: Found.As.
const (
	AsRequestID   = "request id"
	AsInteraction = "interaction sid"
	AsTask        = "task sid"
	AsCall        = "Twilio request id"
	AsKey         = "lookup key"
	AsAttribute   = "attribute=value"
)

// Found is a page of the requests that a text has found. Of a request id and an interaction it is the whole; by
// anything else requests are searched, the newest first: see Page.SearchedTo.
type Found struct {
	As string `json:"as"` // one of the As constants
	Page
}

// Find gives the requests that a text names: by their request id, the sid of their interaction (KD...) or of their task
// (WT...), by what Twilio calls their latest attempt (RQ...), by their lookup key, or by an attribute of their task, name=value, as the request has it in routing.properties.attributes. A value
// that is no string is named as the JSON has it, such as order=17. cursor is Page.Next of the page before; "": the
// newest. It fails with ErrCursor.
func (desk *Desk) Find(ctx context.Context, text, cursor string) (Found, error) {
	began := time.Now()
	text = strings.TrimSpace(text)
	found := Found{As: AsRequestID, Page: Page{Rows: []Row{}}}
	err := desk.read(ctx, "find", func(tx pgx.Tx) error {
		s := search{walk: Filter{}.walk(), most: searchMost, until: began.Add(searchFor), limit: ListMost}
		at, err := s.readCursor(cursor)
		if err != nil {
			return err
		}
		if unstorable(text) {
			return nil
		}
		if cursor == "" {
			rows, err := named(ctx, tx, text)
			if err != nil {
				return err
			}
			for _, r := range rows {
				found.Rows = append(found.Rows, r.Row)
				if r.RequestID != text {
					found.As = AsInteraction
				}
			}
			found.Searched = len(rows)
			if len(rows) > 0 {
				return nil
			}
		}
		name, value, isAttribute := strings.Cut(text, "=")
		switch {
		case flex.IsSID(text, "KD"):
			found.As = AsInteraction
			return nil
		case flex.IsSID(text, "WT"):
			found.As = AsTask
			s.row = `task_sid = ` + s.rowArgs.add(text) + `::text`
		case flex.IsSID(text, "RQ"):
			found.As = AsCall
			s.row = `twilio_request_id = ` + s.rowArgs.add(text) + `::text`
		case isKey(text):
			found.As = AsKey
			s.row = `lookup_key = ` + s.rowArgs.add(text) + `::text`
		case isAttribute && name != "":
			found.As = AsAttribute
			s.pick = func(ctx context.Context, tx pgx.Tx, c chunk, limit int) ([]hit, error) {
				return s.withAttribute(ctx, tx, c, limit, name, value)
			}
		default:
			return nil
		}
		return s.run(ctx, tx, at, &found.Page)
	})
	return found, err
}

var keyForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// isKey says whether a text has the form of a lookup key.
func isKey(text string) bool { return keyForm.MatchString(text) }

// named are the requests that a text names by a request id or the sid of an interaction.
func named(ctx context.Context, tx pgx.Tx, text string) ([]hit, error) {
	return rowsOf[hit](ctx, tx, namedSQL, text, ListMost)
}

const namedSQL = `
	SELECT ` + rowColumns + `, id FROM outbox WHERE request_id = $1::text
	UNION ALL
	SELECT ` + rowColumns + `, id FROM outbox WHERE interaction_sid = $1::text AND request_id <> $1::text
	 ORDER BY id DESC LIMIT $2`

// withAttribute gives those of a chunk, in its order and at most limit, whose task has that attribute with that value.
//
// A string that holds the attributes is the sender's text, at which Postgres could stumble: so it is read here. What
// cannot have the value is left out there: its text has neither the letters and digits of the value nor an escape that
// may stand for one.
func (s *search) withAttribute(ctx context.Context, tx pgx.Tx, c chunk, limit int, name, value string) ([]hit, error) {
	sql, args := s.attributes(c, longestWord(value))
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	var matching []int64
	var id int64
	var attributes *string
	_, err = pgx.ForEachRow(rows, []any{&id, &attributes}, func() error {
		if len(matching) < limit && attributes != nil && hasAttribute([]byte(*attributes), name, value) {
			matching = append(matching, id)
		}
		return nil
	})
	if err != nil || len(matching) == 0 {
		return nil, err
	}
	return s.rows(ctx, tx, chunk{ids: matching}, limit)
}

// attributes is the statement that gives the attributes of the requests of a chunk whose text has a word, or an escape that
// may stand for one of its letters.
func (s *search) attributes(c chunk, word string) (string, params) {
	var args params
	return `SELECT id, left(request #>> '{routing,properties,attributes}', ` + args.add(longestAttributes) + `) FROM outbox
	         WHERE ` + c.within(&args) + ` AND (strpos(request::text, ` + args.add(word) + `) > 0 OR strpos(request::text, '\u00') > 0)
	         ORDER BY ` + s.order(), args
}

// longestAttributes is how many characters of attributes are read. TaskRouter takes 4,096, of which an escape in an
// escape has twelve.
const longestAttributes = 64 << 10

// hasAttribute says whether attributes, the text of an object, have a member of that name and value.
func hasAttribute(attributes []byte, name, value string) bool {
	if !rawjson.Valid(attributes) {
		return false
	}
	raw, there := rawjson.Member(attributes, name)
	if text, isText := rawjson.Text(raw); there && isText {
		return string(text) == value
	}
	return there && string(raw) == value
}

// longestWord is the longest run of ASCII letters and digits in a text: JSON has it as it stands, or with an escape.
func longestWord(text string) string {
	var longest string
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		if len(word) > len(longest) {
			longest = word
		}
	}
	return longest
}
