/*
Package page is where people look at the fleet and decide, with a browser. The worker serves it by itself: html/template,
one stylesheet, one script, nothing built. It translates: what is shown comes from a question of operator.Desk, and what is
done is one of its acts. The Desk alone checks rights; package access alone knows credentials.

	./          Now: does anything move, and if not why; what waits for a person; what came of the last hour   (now.go)
	decide      one uncertain request: the evidence, and the two decisions                                     (decide.go, resolve.go, evidence.go)
	requests    the list, its filters, the one box that knows ids and sids, acts on many, NDJSON               (requests.go, bulk.go)
	request     one request: explanation, timeline, acts that are legal now, result, payload                   (request.go, erase_close.go)
	acts, malformed, fleet                                                                                     (lists.go)
	login, logout                                                                                              (login.go)
	pulse       what has changed, from memory                                                                  (memory.go, pulse.go)

# Screens and regions

A screen is a list of regions (screen.go). A region is read, shown and fetched anew by itself: one that cannot be read, or
takes too long, says so in its own place, and the others stand. While the worker has no Postgres, a screen shows what the worker knows
without it (page.go, watchPostgres; memory.go, unread). Without JavaScript all of this is plain pages, links and
forms. With it the script asks for pulse every three seconds while the page is visible, and fetches those regions anew of
which the mark has changed, unless the person is at work in them.

# What is kept to

All pages stand at one depth and all links are relative, so a proxy may put any path before them. An act answers with a
redirect, and with a notice in a cookie that the next page shows once (notice.go). No markup has a style or a script in
itself. Every text that others wrote reaches the page through html/template, and what cannot be printed is made visible
first. The same address shows the same thing to a colleague.
*/
package page
