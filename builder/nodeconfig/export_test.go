package nodeconfig

// ParseSnippet is for the fuzz target.
var ParseSnippet = parseSnippet
