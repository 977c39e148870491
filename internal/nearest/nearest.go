// Package nearest finds the word that was probably meant.
package nearest

// Of gives the candidate that is at most two edits away from word, and closer than any other; "" if there
// is none. An edit inserts, deletes or replaces a byte, or swaps two neighbours.
func Of(word string, candidates []string) string {
	best, distance := "", min(3, len(word))
	for _, c := range candidates {
		switch d := edits(word, c); {
		case d < distance:
			best, distance = c, d
		case d == distance && c != best:
			best = "" // a tie is a guess
		}
	}
	return best
}

// edits is the optimal string alignment distance of a and b.
func edits(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
