// Package results publishes what the outbox owes: results of settled requests, announcements of requests that
// wait for a person, answers to repeats, and answers to messages that could not become a request.
//
// Whoever settles a request offers it to Outgoing, and this process's Publisher takes it from there. What is
// lost on the way, by a crash or while NATS is away, stands in the tables without published_at, an announcement without
// announced_at. The Publisher of any replica finds it there: a result after UnpublishedAge, all else with the next poll. It is marked only once the stream has acknowledged it, and a
// second publish has the same message id, which the stream drops. So nothing owns a result, and no order of
// crashes loses one.
//
// Messages keeps what is asked in messages that make no new request, until each is answered: repeats, conflicts and
// malformed messages. AnswerKnown finds out which of them an event is whose id is known. This package alone inserts into
// outbox_repeats and outbox_malformed; erase blanks what is personal in them, and package upkeep
// removes what is old.
//
// Result is the one shape of every answer. A Settled is the row that it is made from: the same row gives the
// same bytes.
package results
