package footprint

// rect is a place in a picture, in pixels.
type rect struct{ x, y, w, h float64 }

// squarify divides an area in proportion to weights, which are above zero and sorted, the largest first, into rectangles as square as
// can be (Bruls, Huizing, van Wijk: Squarified Treemaps, 2000).
func squarify(weights []float64, area rect) []rect {
	total := 0.0
	for _, w := range weights {
		total += w
	}
	var out []rect
	for rest := weights; len(rest) > 0; {
		scale := area.w * area.h / total
		side := min(area.w, area.h)
		n, sum := 1, rest[0]
		for n < len(rest) && worst(rest[:n+1], sum+rest[n], scale, side) <= worst(rest[:n], sum, scale, side) {
			sum += rest[n]
			n++
		}
		var row []rect
		row, area = lay(rest[:n], sum, total, area)
		out = append(out, row...)
		rest, total = rest[n:], total-sum
	}
	return out
}

// worst is the largest ratio of sides in a row along a side.
func worst(row []float64, sum, scale, side float64) float64 {
	if side <= 0 || sum <= 0 {
		return 0
	}
	thick := sum * scale / side
	ratio := 1.0
	for _, w := range row {
		long := w * scale / thick
		ratio = max(ratio, long/thick, thick/long)
	}
	return ratio
}

// lay puts a row along the shorter side, and gives what is left of the area.
func lay(row []float64, sum, total float64, area rect) ([]rect, rect) {
	var out []rect
	if area.w >= area.h {
		thick, y := area.w*sum/total, area.y
		for _, w := range row {
			h := area.h * w / sum
			out = append(out, rect{area.x, y, thick, h})
			y += h
		}
		return out, rect{area.x + thick, area.y, area.w - thick, area.h}
	}
	thick, x := area.h*sum/total, area.x
	for _, w := range row {
		width := area.w * w / sum
		out = append(out, rect{x, area.y, width, thick})
		x += width
	}
	return out, rect{area.x, area.y + thick, area.w, area.h - thick}
}
