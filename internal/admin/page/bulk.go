package page

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"flexworker/internal/outbox/operator"
)

// A change is an act that a form can ask for.
type change struct {
	value, name string
	make        func() operator.Change
	harm        bool
	means       string // beside what becomes of each request; "": nothing
}

var manyChanges = []change{
	{"retry", "Retry", func() operator.Change { return operator.ToRetry(false) }, false, ""},
	{"retry-unverified", "Retry without asking (unverified)", func() operator.Change { return operator.ToRetry(true) }, true,
		"Nobody is asked whether they exist. Whoever has an interaction already is contacted twice."},
	{"cancel", "Cancel", operator.ToCancel, true, ""},
	{"lookup", "Look them up now", operator.ToLookUp, false, ""},
	{"republish", "Publish their results again", operator.ToRepublish, false, "The message ids stay, so the stream drops what it still remembers."},
}

func changeNamed(value string) (change, bool) {
	i := slices.IndexFunc(manyChanges, func(c change) bool { return c.value == value })
	if i < 0 {
		return change{}, false
	}
	return manyChanges[i], true
}

type field struct{ Name, Value string }

func fieldsOf(values url.Values) (fields []field) {
	kept := only(values)
	for _, name := range filterNames {
		for _, value := range kept[name] {
			fields = append(fields, field{name, value})
		}
	}
	return fields
}

type many struct {
	Fields []field
	Acts   []option
}

func manyOf(values url.Values) many {
	m := many{Fields: fieldsOf(values)}
	for _, c := range manyChanges {
		m.Acts = append(m.Acts, option{Value: c.value, Name: c.name})
	}
	return m
}

type preview struct {
	Said, Takes       string
	N                 int
	Of, Left          []becoming
	LeftSaid          string
	First             []string
	Means             string
	Harm              bool
	Fields            []field
	Act, Why          string
	Token, Back, Name string
}

type becoming struct {
	N    int
	What string
}

// bulk shows what an act on many would take and, with the token of what was shown, carries it out.
func (v *visit) bulk() error {
	if err := v.r.ParseForm(); err != nil {
		return v.plain(http.StatusBadRequest, "The form is not understood", "Go back, and send it again.")
	}
	form := v.r.PostForm
	f, fault := filterOf(form)
	c, known := changeNamed(form.Get("act"))
	if fault != "" || !known {
		return v.plain(http.StatusBadRequest, "The form is not understood", "Nothing was changed. "+fault)
	}
	back := addressOf("requests", only(form))
	if form.Get("token") == "" {
		return v.preview(c, f, form, back)
	}
	f.Preview = form.Get("token")
	defer v.takes(actLimit)()
	all, err := v.desk.Do(v.ctx(), c.make(), operator.Act{Why: form.Get("why")}, f)
	switch {
	case errors.Is(err, operator.ErrOtherPreview):
		notice{"bad", "Nothing was changed", []string{"This is not what the preview has shown. Look at the preview again."}}.leave(v.w, v.r)
	case err != nil:
		return err
	default:
		v.page.memory.forget()
		back = thoseOf(all.IDs, back)
		n := notice{"good", fmt.Sprintf("%s: %s", c.name, requestsSaid(int64(all.N))), nil}
		for _, b := range becomings(all.Of) {
			n.Lines = append(n.Lines, fmt.Sprintf("%s: %s.", requestsSaid(int64(b.N)), b.What))
		}
		if shown := strings.Count(back, "request="); shown < all.N && shown > 0 {
			n.Lines = append(n.Lines, fmt.Sprintf("The first %d are listed, Acts has all.", shown))
		}
		if len(all.Locked) > 0 {
			n.Tone = "warn"
			n.Lines = append(n.Lines, fmt.Sprintf("%s left out, since another session holds the row. Do it again for: %s.", requestsSaid(int64(len(all.Locked))), strings.Join(all.Locked, ", ")))
		}
		if all.N == 0 {
			n.Tone, n.Lines = "warn", append(n.Lines, "What the preview showed has moved on since.")
		}
		n.leave(v.w, v.r)
	}
	to(v.w, back)
	return nil
}

// thoseMost is how many requests an address names at most, and addressMost how long it may get by them.
const (
	thoseMost   = 20
	addressMost = 1500
)

// thoseOf is the address of a list of these requests, the first of them where they are many. otherwise: there are none.
func thoseOf(ids []string, otherwise string) string {
	var address string
	values := url.Values{}
	for _, id := range ids[:min(len(ids), thoseMost)] {
		values.Add("request", id)
		if longer := addressOf("requests", values); address == "" || len(longer) <= addressMost {
			address = longer
			continue
		}
		break
	}
	return cmp.Or(address, otherwise)
}

func requestsSaid(n int64) string {
	if n == 1 {
		return "1 request"
	}
	return thousands(n) + " requests"
}

func becomings(of map[string]int) (all []becoming) {
	for what, n := range of {
		all = append(all, becoming{n, what})
	}
	slices.SortFunc(all, func(a, b becoming) int {
		if a.N != b.N {
			return b.N - a.N
		}
		return strings.Compare(a.What, b.What)
	})
	return all
}

// preview says how many of those that match an act would take, and why not the others, and shows the first five.
func (v *visit) preview(c change, f operator.Filter, form url.Values, back string) error {
	made := c.make()
	return v.show(c.name, "requests", region{name: "preview", title: "The preview", read: func(ctx context.Context) (any, error) {
		all, err := v.desk.Matching(ctx, made, nil, f)
		if err != nil {
			return nil, err
		}
		p := preview{N: all.N, Of: becomings(all.Of), First: all.IDs, Means: c.means, Harm: c.harm, Fields: fieldsOf(form), Act: c.value, Why: form.Get("why"),
			Token: all.Token, Back: back, Name: c.name, Said: c.name + " takes " + requestsSaid(int64(all.N))}
		switch left, err := v.desk.Leaving(ctx, made, f); {
		case errors.Is(err, operator.ErrTooSlow):
			p.LeftSaid = "Whether it leaves others that match was not counted: that takes too long."
		case err != nil:
			return nil, err
		case left.More:
			p.LeftSaid = "It leaves more than " + thousands(int64(left.N-1)) + " others that match, for example:"
			p.Left = becomings(left.Of)
		default:
			p.Said = fmt.Sprintf("%s takes %s of %s", c.name, thousands(int64(all.N)), requestsSaid(int64(all.N+left.N))+matching(all.N+left.N))
			if left.N > 0 {
				p.LeftSaid, p.Left = "Left as they are:", becomings(left.Of)
			}
		}
		p.Said += ". Nothing is done yet"
		if all.N == 0 {
			p.Takes = "It takes " + made.Takes + "."
		}
		return p, nil
	}})
}

// matching is the rest of a sentence about n requests.
func matching(n int) string {
	if n == 1 {
		return " that matches"
	}
	return " that match"
}
