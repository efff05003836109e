package main

import (
	"testing"

	"flexworker/internal/testing/flextest"
)

// TestJudgeWord: a created request has exactly one word, and a word that its fate does not lead to is an offence.
func TestJudgeWord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rec      rec
		seed     uint64
		offences int
	}{
		"right":                         {rec{outcome: "created", words: 1, word: "confirmed"}, 1, 0},
		"failed, and said so":           {rec{outcome: "created", words: 1, word: "setup_failed", fate: flextest.NoCustomer}, 1, 0},
		"stuck":                         {rec{outcome: "created", words: 1, word: "unconfirmed", fate: flextest.Stuck}, 1, 0},
		"could not be read":             {rec{outcome: "created", words: 1, word: "unconfirmed"}, 1, 0},
		"no word":                       {rec{outcome: "created"}, 1, 1},
		"two words":                     {rec{outcome: "created", words: 2, word: "confirmed"}, 1, 1},
		"failed, called confirmed":      {rec{outcome: "created", words: 1, word: "confirmed", fate: flextest.ChannelFailed}, 1, 1},
		"stuck, called confirmed":       {rec{outcome: "created", words: 1, word: "confirmed", fate: flextest.Stuck}, 1, 1},
		"well, called failed":           {rec{outcome: "created", words: 1, word: "setup_failed"}, 1, 1},
		"cancelled, called confirmed":   {rec{outcome: "created", words: 1, word: "confirmed", fate: flextest.TaskCanceled}, 1, 1},
		"cancelled, a look too late":    {rec{outcome: "created", words: 1, word: "confirmed", fate: flextest.TaskCanceled, at: 1000, wordAt: 301_000}, 1, 0},
		"cancelled, a look in time":     {rec{outcome: "created", words: 1, word: "confirmed", fate: flextest.TaskCanceled, at: 1000, wordAt: 300_999}, 1, 1},
		"cancelled, the task forgotten": {rec{outcome: "created", words: 1, word: "confirmed", fate: flextest.TaskCanceled}, 2, 0},
		"nobody to be missed":           {rec{kind: attached, outcome: "created", words: 1, word: "confirmed", fate: flextest.NoCustomer}, 1, 0},
		"attached, its channel failed":  {rec{kind: attached, outcome: "created", words: 1, word: "confirmed", fate: flextest.ChannelFailed}, 1, 1},
		"expired, without a word":       {rec{outcome: "expired"}, 1, 0},
		"expired, with a word":          {rec{outcome: "expired", words: 1, word: "confirmed"}, 1, 1},
	} {
		b := newBook()
		b.seed = c.seed
		if c.rec.outcome == "created" {
			c.rec.created = []string{"KD"}
		}
		if b.judgeWord("id", &c.rec); len(b.offences) != c.offences {
			t.Errorf("%s: %v", name, b.offences)
		}
	}
}
