package page

import (
	"net/http"
	"time"
)

// A Tested is the page as tests have it.
type Tested struct {
	http.Handler
	page *Page
}

// NewTested is New, with what tests do to it.
func NewTested(c Config) *Tested {
	p := newPage(c)
	return &Tested{p.handler(), p}
}

// Forget has what was read for all be read anew.
func (t *Tested) Forget() { t.page.memory.forget() }

// Stay has it count until it is forgotten.
func (t *Tested) Stay() { t.page.memory.freshFor = time.Hour }

// Hurries has the worker be asked soon whether it has Postgres.
func (t *Tested) Hurries() { t.page.patience = 10 * time.Millisecond }

// AskFor has screens wait for TaskRouter for so long.
func (t *Tested) AskFor(d time.Duration) { t.page.askFor = d }

// Exports has an export be under way until end is called.
func (t *Tested) Exports() (end func()) {
	t.page.exporting.Lock()
	return t.page.exporting.Unlock
}
