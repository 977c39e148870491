# Adds up a column of the CSV on stdin, for each value of another if asked. Columns are told by number or name.

BEGIN {
	columns = split(ENVIRON["QUERY_STRING"], pairs, "&")
	for (i = 1; i <= columns; i++) {
		at = index(pairs[i] "=", "=")
		query[decode(substr(pairs[i], 1, at - 1))] = decode(substr(pairs[i], at + 1))
	}
	if (query["column"] == "")
		refuse("say which column to add up, such as ?column=2 or ?column=amount&by=city")
}

# A quoted field may go over several lines: a record has an even number of quotes.
{
	sub(/\r$/, "")
	record = began ? record "\n" $0 : $0
	began = gsub(/"/, "\"", record) % 2
	if (began || record == "")
		next
	n = cut(record)
}

!column {
	column = find(query["column"])
	by = query["by"] == "" ? -1 : find(query["by"])
	label = field[column]
	next
}

{
	value = field[column]
	if (value !~ /^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$/)
		refuse("line " NR ": \"" value "\" in column " label " is no number")
	group = by < 0 ? "total" : field[by]
	if (!(group in count))
		order[++groups] = group
	count[group]++
	sum[group] += value
	if (count[group] == 1 || value + 0 > most[group])
		most[group] = value + 0
}

END {
	if (refused)
		exit 0
	if (began)
		refuse("the last field has no closing quote")
	print "Content-Type: text/csv; charset=utf-8\n"
	printf "%s,count,sum,mean,max\n", by < 0 ? label : query["by"]
	for (i = 1; i <= groups; i++) {
		group = order[i]
		printf "%s,%d,%.2f,%.2f,%.2f\n", quote(group), count[group], sum[group], sum[group] / count[group], most[group]
	}
	print NR " lines, " groups + 0 " groups" >"/dev/stderr"
}

function refuse(text) {
	printf "Status: 400 Bad Request\nContent-Type: text/plain\n\n%s\n", text
	refused = 1
	exit 0
}

# find gives the number of a column of the first line.
function find(name,    i) {
	for (i = 1; i <= n; i++)
		if (field[i] == name || i == name)
			return i
	refuse("there is no column \"" name "\" in: " record)
}

# cut splits a record at its commas into field and gives their number.
function cut(s,    i, c, quoted) {
	split("", field)
	n = 1
	field[1] = ""
	for (i = 1; i <= length(s); i++) {
		c = substr(s, i, 1)
		if (c == "\"" && quoted && substr(s, i + 1, 1) == "\"")
			field[n] = field[n] substr(s, ++i, 1)
		else if (c == "\"")
			quoted = !quoted
		else if (c == "," && !quoted)
			field[++n] = ""
		else
			field[n] = field[n] c
	}
	return n
}

function quote(s) {
	if (s !~ /[",\n]/)
		return s
	gsub(/"/, "\"\"", s)
	return "\"" s "\""
}

# decode undoes the encoding of a query.
function decode(s,    out) {
	gsub(/\+/, " ", s)
	while (match(s, /%[0-9A-Fa-f][0-9A-Fa-f]/)) {
		out = out substr(s, 1, RSTART - 1) sprintf("%c", 16 * digit(substr(s, RSTART + 1, 1)) + digit(substr(s, RSTART + 2, 1)))
		s = substr(s, RSTART + 3)
	}
	return out s
}

function digit(c) {
	return index("0123456789abcdef", tolower(c)) - 1
}
