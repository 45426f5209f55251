CREATE TABLE recipes(id INTEGER PRIMARY KEY, name TEXT, minutes INTEGER, serves INTEGER, vegan INTEGER);
CREATE TABLE ingredients(recipe_id INTEGER, item TEXT, grams REAL);
INSERT INTO recipes VALUES
  (1,'Dal',40,4,1),
  (2,'Quiche',55,6,0),
  (3,'Salad',10,2,1),
  (4,'Crepes',30,4,0);
INSERT INTO ingredients VALUES
  (1,'lentils',250),
  (1,'onion',120),
  (2,'egg',180),
  (2,'flour',200),
  (3,'tomato',300),
  (3,'onion',40),
  (4,'egg',120),
  (4,'flour',250),
  (4,'milk',500);
