package linuxkit

import "fmt"

// Losses collects what a ramdisk cannot hold, by kind: a tree may have a label on every file. Its method Note
// is for [image.Ramdisk].
type Losses struct {
	kinds []*loss // in the order of their first files
}

type loss struct {
	what, path string // of the first file
	files      int
}

// Note records a loss. It never fails.
func (l *Losses) Note(path, what string) error {
	for _, k := range l.kinds {
		if k.what == what {
			k.files++
			return nil
		}
	}
	l.kinds = append(l.kinds, &loss{what, path, 1})
	return nil
}

// Lines returns a line for each kind, which names the first file.
func (l *Losses) Lines() (lines []string) {
	for _, k := range l.kinds {
		more := ""
		if k.files > 1 {
			more = fmt.Sprintf(" and %d more", k.files-1)
		}
		lines = append(lines, fmt.Sprintf("%s%s: %s", k.path, more, k.what))
	}
	return lines
}
