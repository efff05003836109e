package flex

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
)

// Limits of a list in bytes. A page of 1,000 events with full attributes has
// about 6 MiB: attributes end at 4,096 characters.
const (
	maxList    = 16 << 20
	maxElement = 1 << 20
)

// page reads one page of a list and returns the token of the page after it. The
// address of that is built here, as whoever answers could name any other. each is
// called with the elements as they come: valid JSON, overwritten by the next one.
// After an error, what each was told must not be used.
func (c *Client) page(ctx context.Context, base string, query url.Values, name string, each func(raw []byte)) (next string, err error) {
	l := list{name: name, each: each}
	if err := c.ask(ctx, base+"?"+strings.ReplaceAll(query.Encode(), "+", "%20"), l.read); err != nil {
		return "", err
	}
	if l.next != "" {
		u, err := url.Parse(l.next)
		if err == nil {
			next = u.Query().Get("PageToken")
		}
		if next == "" || len(next) > 500 || next == query.Get("PageToken") {
			return "", unclear("answer", "the answer names a next page without a usable token")
		}
	}
	return next, nil
}

// list reads one page of a list. Of the page no more is held than the element
// that is being read.
type list struct {
	name string
	each func(raw []byte)
	seen bool
	next string // address of the page after it
	raw  json.RawMessage
}

// read takes a whole page in: an object that has one list of that name, and
// nothing after it. Its error says that the page was cut, is too long, or is
// something else.
func (l *list) read(body io.Reader) error {
	in := &ration{body: body}
	d := json.NewDecoder(in)
	in.allow(d)
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(err, errors.New("no object"))
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		if name == l.name {
			err = l.elements(d, in)
		} else {
			err = l.other(d, name)
		}
		if err != nil {
			return err
		}
		in.allow(d)
	}
	if _, err := d.Token(); err != nil { // the object's end
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.Join(err, errors.New("more than an object"))
	}
	if !l.seen {
		return fmt.Errorf("no list of %s", l.name)
	}
	return nil
}

// elements reads the list itself.
func (l *list) elements(d *json.Decoder, in *ration) error {
	if open, err := d.Token(); err != nil || open != json.Delim('[') || l.seen {
		return errors.Join(err, fmt.Errorf("not one list of %s", l.name))
	}
	l.seen = true
	for d.More() {
		if err := d.Decode(&l.raw); err != nil {
			return err
		}
		l.each(l.raw)
		in.allow(d)
	}
	_, err := d.Token() // the list's end
	return err
}

// other reads what stands beside the list.
func (l *list) other(d *json.Decoder, name json.Token) error {
	err := d.Decode(&l.raw)
	if err == nil && name == "meta" && l.next == "" {
		l.next = textAt(l.raw, "next_page_url")
	}
	return err
}

// ration hands a body out to a decoder, which would take in as much as it needs
// for one value, whatever its size.
type ration struct {
	body       io.Reader
	read, most int64
}

var errTooLong = errors.New("too long")

// allow lets the decoder read one element beyond what it has decoded.
func (r *ration) allow(d *json.Decoder) { r.most = min(d.InputOffset()+maxElement, maxList) }

func (r *ration) Read(p []byte) (int, error) {
	if r.read == r.most {
		return 0, errTooLong
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.most-r.read)])
	r.read += int64(n)
	return n, err
}
