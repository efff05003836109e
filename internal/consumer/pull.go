package consumer

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullFor is how long one pull waits at the server, and heartbeatEvery how often the
	// server then gives a sign of life.
	pullFor        = 5 * time.Second
	heartbeatEvery = time.Second
	// leastPullFor is the shortest pull that the client library makes.
	leastPullFor = time.Second
	// pullBytes is what the server sends at once, in bytes: one that has 64 MB (its
	// max_pending) waiting for a connection takes it for a slow consumer, and closes it.
	pullBytes = 16 << 20
)

// A pull is what the worker asks of the consumer at once. A server refuses a pull that
// asks for more than the consumer allows, and the client library makes the same pull
// again, for ever: so what is asked for stays within the consumer's own limits.
type pull struct {
	batch     int // messages
	bytes     int // 0: no limit
	expiry    time.Duration
	heartbeat time.Duration
	group     string // of a consumer with priority groups; "": it has none
}

// pullOf is the pull for a consumer: what the worker would ask for, cut to what the
// consumer allows. A server's own limit (jetstream { limits { max_request_batch } })
// shows in the consumer's configuration. largest is what one message may have, in bytes.
//
// A pull that gives a number of bytes which the next message does not fit into is ended
// by the server at once, and the library makes it again at once. Where the consumer
// allows less than the largest message may have, the pull gives none, which is allowed,
// and asks for one message at a time.
func pullOf(has jetstream.ConsumerConfig, prefetch, largest int) pull {
	p := pull{batch: prefetch, bytes: max(pullBytes, largest), expiry: pullFor}
	if has.MaxRequestBatch > 0 {
		p.batch = min(p.batch, has.MaxRequestBatch)
	}
	if has.MaxRequestExpires > 0 {
		p.expiry = min(p.expiry, has.MaxRequestExpires)
	}
	if most := has.MaxRequestMaxBytes; most >= largest {
		p.bytes = min(p.bytes, most)
	} else if most > 0 {
		p.batch, p.bytes = 1, 0
	}
	p.heartbeat = min(heartbeatEvery, p.expiry/2)
	if len(has.PriorityGroups) > 0 {
		p.group = has.PriorityGroups[0] // a server knows no more than one yet
	}
	return p
}

// options are the pull as the client library takes it.
func (p pull) options() []jetstream.PullConsumeOpt {
	options := []jetstream.PullConsumeOpt{jetstream.PullExpiry(p.expiry), jetstream.PullHeartbeat(p.heartbeat)}
	if p.bytes > 0 {
		options = append(options, jetstream.PullMaxMessagesWithBytesLimit(p.batch, p.bytes))
	} else {
		options = append(options, jetstream.PullMaxMessages(p.batch))
	}
	if p.group != "" {
		options = append(options, jetstream.PullPriorityGroup(p.group))
	}
	return options
}

// largest is what one message may have in bytes, with its subject and reply.
func (c *Consumer) largest() int { return 2 * int(c.Stream.Conn().MaxPayload()) }

// slow says which settings of a consumer let requests wait though nothing is broken.
func slow(has jetstream.ConsumerConfig, largest int) []string {
	var advice []string
	if most := has.MaxRequestMaxBytes; most > 0 && most < largest {
		advice = append(advice, fmt.Sprintf("its max_bytes of %d is less than one message may have with its headers and subjects (%d): messages are pulled one at a time; raise or remove max_bytes",
			most, largest))
	}
	if has.PriorityPolicy == jetstream.PriorityPolicyPinned {
		advice = append(advice, fmt.Sprintf("its priority policy is pinned_client: one replica gets all messages, and when that one ends nobody gets any for up to %v; make it anew without priority groups", has.PinnedTTL))
	}
	if most := has.MaxWaiting; most > 0 && most < leastWaiting {
		advice = append(advice, fmt.Sprintf("its max_waiting of %d is less than %d: each replica may have two pulls that wait, and gets nothing while others have all places; raise max_waiting", most, leastWaiting))
	}
	return advice
}

// leastWaiting is a max_waiting of a consumer that eight replicas do not use up.
const leastWaiting = 16
