// Package nearest finds the word that somebody who mistyped another one probably meant.
package nearest

import (
	"fmt"
	"math"
)

// Word returns the known word that is nearest to s by edits (insert, delete, replace, swap two
// neighbours), or "" when none is near enough to be worth suggesting.
func Word(s string, known []string) string {
	best, least := "", len(s)/2+1
	for _, k := range known {
		if k == s {
			continue
		}
		if d := distance(s, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// Hint returns `; did you mean "word"?`, or "" when no known word is near.
func Hint(s string, known []string) string {
	if w := Word(s, known); w != "" {
		return fmt.Sprintf("; did you mean %q?", w)
	}
	return ""
}

// distance is the optimal string alignment distance. Words longer than any we know are not measured.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return math.MaxInt
	}
	var rows [3][65]int
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		two, above, row := &rows[(i+1)%3], &rows[(i+2)%3], &rows[i%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], two[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}
