package reach

import (
	"fmt"
	"strings"
	"testing"
)

// TestTally runs rounds, each written as those peers that answer it, and compares what is told after each.
func TestTally(t *testing.T) {
	for _, tt := range []struct {
		name   string
		peers  int
		rounds string // of peers' letters
		want   string
	}{
		{"two of three are a majority", 2, "ab a b ab", "0 0 0 0"},
		{"nobody answers any more", 2, "ab - - -", "0 1 2 3"},
		{"one answer is enough to begin anew", 2, "ab - - b -", "0 1 2 0 1"},
		{"nobody ever answers", 2, "- - - -", "0 0 0 0"},
		{"only one was ever there", 2, "a a - -", "0 0 1 2"},
		{"of five two others are needed", 4, "abcd ab a a ab", "0 0 1 2 0"},
		{"who answers a later round has heard what was before", 4, "abcd ab a d", "0 0 1 1"},
		{"of two the other is needed", 1, "a - a", "0 1 0"},
		{"of four two others are needed", 3, "abc ab c", "0 0 1"},
		{"it is forgotten after six lost ones", 2, "ab - - - - - - - a -", "0 1 2 3 4 5 6 0 0 1"},
	} {
		tally := newTally(tt.peers, 6)
		tally.next()
		var got []string
		for _, answers := range strings.Fields(tt.rounds) {
			for _, letter := range strings.Trim(answers, "-") {
				tally.answer(int(letter-'a'), tally.sent)
			}
			lost, _ := tally.next()
			got = append(got, fmt.Sprint(lost))
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestLateAnswers count for their own round; those to rounds that were never sent count nothing.
func TestLateAnswers(t *testing.T) {
	tally := newTally(2, 100)
	tally.next()
	tally.answer(0, 1)
	for range 5 {
		tally.next()
	}
	tally.answer(1, 3)
	tally.answer(1, 2)
	tally.answer(0, 1000)
	if lost, _ := tally.next(); lost != 3 {
		t.Errorf("%d lost", lost)
	}
}
