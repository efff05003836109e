// Package doctor asks Postgres, NATS and Twilio, by reads alone, whether all that a worker needs is there and permitted.
// Each of its Lines says that one thing is as it should be, or what to do. It repeats no rule: what a consumer has to be
// like says package consumer, what a schema, package migrations, what an answer of Twilio's means, package flex.
//
// What cannot be asked, since something before it failed or a right is missing, is a line too: Unknown.
package doctor

import (
	"fmt"
)

// Status is what a line says of its thing.
type Status string

// The statuses.
const (
	OK       Status = "ok"
	Advice   Status = "advice"   // the worker can work with it, and somebody will be surprised
	Unknown  Status = "unknown"  // it could not be asked
	Fault    Status = "fault"    // the worker cannot work with it
	Settings Status = "settings" // a setting is at fault, such as a password that is refused
	Away     Status = "away"     // a server does not answer
)

// Line is what was found about one thing.
type Line struct {
	Server string `json:"server"` // postgres, nats, flex, taskrouter, or settings
	What   string `json:"what"`
	Status Status `json:"status"`
	Says   string `json:"says"` // what was found; may quote others' words
	Do     string `json:"do"`   // what to do; "": nothing
}

// Report is the lines in the order in which they were found.
type Report []Line

func (r *Report) add(server, what string, status Status, do, says string, args ...any) {
	*r = append(*r, Line{Server: server, What: what, Status: status, Do: do, Says: fmt.Sprintf(says, args...)})
}

// unknown adds a line for each thing that could not be asked.
func (r *Report) unknown(server, why string, whats ...string) {
	for _, what := range whats {
		r.add(server, what, Unknown, "", "not asked: %s", why)
	}
}

// Has says whether a line has that status.
func (r Report) Has(status Status) bool {
	for _, l := range r {
		if l.Status == status {
			return true
		}
	}
	return false
}
